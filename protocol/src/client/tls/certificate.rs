//! The few fields of an X.509 certificate that libpq's rules need and webpki does not give
//! (RFC 5280, section 4.1; DER is ITU-T X.690).

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use crate::codec::{CodecError, Reader};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;

/// UTF8String, PrintableString, TeletexString, IA5String.
const STRINGS: [u8; 4] = [0x0C, 0x13, 0x14, 0x16];

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
const RSA_PSS: u8 = 0x0A;
const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];
const HASHES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// A certificate's fields.
pub(super) struct Certificate<'a> {
    der: &'a [u8],
    hash: Option<Hash>,
    /// Seconds since 1970.
    pub(super) not_before: i64,
    /// Seconds since 1970.
    pub(super) not_after: i64,
    /// The subject's first common name.
    pub(super) common_name: Option<&'a str>,
    /// Whether an alternative name is a host name.
    pub(super) names_hosts: bool,
    /// Whether an alternative name is an IP address.
    pub(super) names_addresses: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl<'a> Certificate<'a> {
    /// Reads one DER certificate.
    pub(super) fn parse(der: &'a [u8]) -> Result<Certificate<'a>, CodecError> {
        let mut whole = Reader::new(der);
        let mut certificate = Reader::new(expect(&mut whole, SEQUENCE, "certificate")?);
        let mut body = Reader::new(expect(&mut certificate, SEQUENCE, "certificate body")?);
        let algorithm = expect(&mut certificate, SEQUENCE, "signature algorithm")?;

        if body.rest().first() == Some(&VERSION) {
            element(&mut body, "version")?;
        }
        element(&mut body, "serial number")?;
        element(&mut body, "signature")?;
        element(&mut body, "issuer")?;
        let mut validity = Reader::new(expect(&mut body, SEQUENCE, "validity")?);
        let not_before = time(&mut validity)?;
        let not_after = time(&mut validity)?;
        let subject = expect(&mut body, SEQUENCE, "subject")?;
        element(&mut body, "public key")?;

        let mut certificate = Certificate {
            der,
            hash: signature_hash(algorithm)?,
            not_before,
            not_after,
            common_name: common_name(subject)?,
            names_hosts: false,
            names_addresses: false,
        };
        while !body.is_empty() {
            if let (EXTENSIONS, extensions) = element(&mut body, "extensions")? {
                certificate.read_alternative_names(extensions)?;
            }
        }
        Ok(certificate)
    }

    /// The hash of the whole certificate that `tls-server-end-point` is.
    pub(super) fn end_point_hash(&self) -> Option<Vec<u8>> {
        Some(match self.hash? {
            Hash::Sha224 => Sha224::digest(self.der).to_vec(),
            Hash::Sha256 => Sha256::digest(self.der).to_vec(),
            Hash::Sha384 => Sha384::digest(self.der).to_vec(),
            Hash::Sha512 => Sha512::digest(self.der).to_vec(),
        })
    }

    fn read_alternative_names(&mut self, extensions: &'a [u8]) -> Result<(), CodecError> {
        let mut list = Reader::new(expect(
            &mut Reader::new(extensions),
            SEQUENCE,
            "extensions",
        )?);
        while !list.is_empty() {
            let mut extension = Reader::new(expect(&mut list, SEQUENCE, "extension")?);
            if expect(&mut extension, OID, "extension type")? != SUBJECT_ALT_NAME {
                continue;
            }
            while !extension.is_empty() {
                // The flag "critical" may stand before the value.
                if let (OCTET_STRING, value) = element(&mut extension, "alternative names")? {
                    let names = expect(&mut Reader::new(value), SEQUENCE, "alternative names")?;
                    let mut names = Reader::new(names);
                    while !names.is_empty() {
                        match element(&mut names, "alternative name")?.0 {
                            0x82 => self.names_hosts = true,
                            0x87 => self.names_addresses = true,
                            _ => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The tag and the content of the next element.
fn element<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<(u8, &'a [u8]), CodecError> {
    let tag = reader.u8(field)?;
    let length = match reader.u8(field)? {
        short @ 0..=0x7F => usize::from(short),
        long @ 0x81..=0x84 => {
            let digits = reader.take(usize::from(long & 0x7F), field)?;
            digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit))
        }
        other => return Err(reader.refuse(field, u64::from(other))),
    };
    Ok((tag, reader.take(length, field)?))
}

fn expect<'a>(
    reader: &mut Reader<'a>,
    tag: u8,
    field: &'static str,
) -> Result<&'a [u8], CodecError> {
    match element(reader, field)? {
        (found, content) if found == tag => Ok(content),
        (found, _) => Err(reader.refuse(field, u64::from(found))),
    }
}

/// The hash in a signature algorithm. MD5 and SHA-1 are replaced by SHA-256 (RFC 5929); Ed25519
/// and Ed448 have none.
fn signature_hash(algorithm: &[u8]) -> Result<Option<Hash>, CodecError> {
    let mut reader = Reader::new(algorithm);
    let oid = expect(&mut reader, OID, "signature algorithm")?;
    if let Some(kind) = oid.strip_prefix(RSA) {
        return match kind {
            [0x04 | 0x05 | 0x0B] => Ok(Some(Hash::Sha256)),
            [0x0C] => Ok(Some(Hash::Sha384)),
            [0x0D] => Ok(Some(Hash::Sha512)),
            [0x0E] => Ok(Some(Hash::Sha224)),
            [RSA_PSS] => pss_hash(expect(&mut reader, SEQUENCE, "RSA-PSS parameters")?),
            _ => Ok(None),
        };
    }
    Ok(match oid.strip_prefix(ECDSA) {
        Some([0x01] | [0x03, 0x02]) => Some(Hash::Sha256),
        Some([0x03, 0x01]) => Some(Hash::Sha224),
        Some([0x03, 0x03]) => Some(Hash::Sha384),
        Some([0x03, 0x04]) => Some(Hash::Sha512),
        _ => None,
    })
}

/// The hash in RSA-PSS parameters (RFC 4055, section 3.1); SHA-1, hence SHA-256, by default.
fn pss_hash(parameters: &[u8]) -> Result<Option<Hash>, CodecError> {
    let mut reader = Reader::new(parameters);
    if reader.rest().first() != Some(&0xA0) {
        return Ok(Some(Hash::Sha256));
    }
    let (_, explicit) = element(&mut reader, "RSA-PSS hash")?;
    let hash = expect(&mut Reader::new(explicit), SEQUENCE, "RSA-PSS hash")?;
    let oid = expect(&mut Reader::new(hash), OID, "RSA-PSS hash")?;
    Ok(match oid.strip_prefix(HASHES) {
        Some([0x01]) => Some(Hash::Sha256),
        Some([0x02]) => Some(Hash::Sha384),
        Some([0x03]) => Some(Hash::Sha512),
        Some([0x04]) => Some(Hash::Sha224),
        _ => None,
    })
}

/// The first common name; none when it holds what no name holds, such as a zero byte.
fn common_name(subject: &[u8]) -> Result<Option<&str>, CodecError> {
    let mut parts = Reader::new(subject);
    while !parts.is_empty() {
        let mut set = Reader::new(expect(&mut parts, SET, "subject")?);
        while !set.is_empty() {
            let mut attribute = Reader::new(expect(&mut set, SEQUENCE, "subject")?);
            if expect(&mut attribute, OID, "subject")? == COMMON_NAME {
                let (tag, value) = element(&mut attribute, "common name")?;
                let text = std::str::from_utf8(value)
                    .ok()
                    .filter(|_| STRINGS.contains(&tag));
                return Ok(text.filter(|name| !name.contains('\0')));
            }
        }
    }
    Ok(None)
}

/// Seconds since 1970 of a UTCTime or a GeneralizedTime (RFC 5280, section 4.1.2.5).
fn time(reader: &mut Reader<'_>) -> Result<i64, CodecError> {
    let (tag, text) = element(reader, "validity")?;
    let refused = reader.refuse("validity", u64::from(tag));
    let (century, digits) = match tag {
        UTC_TIME => (None, text),
        GENERALIZED_TIME => match text.split_at_checked(2) {
            Some((century, digits)) => (Some(century), digits),
            None => return Err(refused),
        },
        _ => return Err(refused),
    };
    let pair = |pair: &[u8]| match pair {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
        }
        _ => None,
    };
    let read = || {
        let digits = digits.strip_suffix(b"Z")?;
        let mut fields = digits.chunks(2).map(pair);
        let mut next = || fields.next().flatten();
        let year = next()?;
        let year = match century {
            Some(century) => pair(century)? * 100 + year,
            None if year < 50 => 2000 + year,
            None => 1900 + year,
        };
        let date = days_since_1970(year, next()?, next()?);
        Some(((date * 24 + next()?) * 60 + next()?) * 60 + next()?)
    };
    read().ok_or(refused)
}

/// Days of the Gregorian calendar, counted from March so that leap days come last in the year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (month * 153 + 2) / 5
        + day
        - 1
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_time(tag: u8, text: &str) -> Option<i64> {
        let mut der = vec![tag, u8::try_from(text.len()).expect("short")];
        der.extend_from_slice(text.as_bytes());
        time(&mut Reader::new(&der)).ok()
    }

    #[test]
    fn dates_are_counted_right() {
        assert_eq!(read_time(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(read_time(UTC_TIME, "000229235959Z"), Some(951_868_799));
        assert_eq!(read_time(UTC_TIME, "261121064000Z"), Some(1_795_243_200));
        assert_eq!(
            read_time(GENERALIZED_TIME, "20500101000000Z"),
            Some(2_524_608_000)
        );
        assert_eq!(read_time(UTC_TIME, "2611210640Z"), None);
        assert_eq!(read_time(UTC_TIME, "26112106400xZ"), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(der: Vec<u8>) {
            let _ = Certificate::parse(&der);
            let _ = signature_hash(&der);
            let _ = common_name(&der);
            let _ = time(&mut Reader::new(&der));
        }
    }
}
