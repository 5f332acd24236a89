//! Decoders of the bodies of single messages.

use bytes::Bytes;

use super::{Frame, ProtocolError, tag};
use crate::codec::{CodecError, Reader};

/// What an `Authentication…` message asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthRequest {
    /// Nothing more: the server lets us in.
    Ok,
    /// The password as it is.
    Cleartext,
    /// The password hashed with MD5.
    Md5 {
        /// Mixed into the hash.
        salt: [u8; 4],
    },
    /// A SASL exchange by one of these mechanisms.
    Sasl {
        /// In the server's order of preference.
        mechanisms: Vec<String>,
    },
    /// The server's challenge.
    SaslContinue(Bytes),
    /// The server's proof that it knows the password too.
    SaslFinal(Bytes),
    /// A method walvault does not speak, by its number.
    Unsupported(u32),
}

/// One column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The OID of its type.
    pub type_oid: u32,
}

/// Reads an `Authentication…` message.
///
/// # Errors
/// When the frame is another message, or malformed.
pub fn authentication(frame: &Frame) -> Result<AuthRequest, ProtocolError> {
    decode(
        frame,
        tag::AUTHENTICATION,
        "during authentication",
        |reader| {
            Ok(match reader.u32_be("authentication method")? {
                0 => AuthRequest::Ok,
                3 => AuthRequest::Cleartext,
                5 => AuthRequest::Md5 {
                    salt: reader.array("MD5 salt")?,
                },
                10 => {
                    let mut mechanisms = Vec::new();
                    loop {
                        match c_str_lossy(reader, "SASL mechanism")? {
                            name if name.is_empty() => break AuthRequest::Sasl { mechanisms },
                            name => mechanisms.push(name),
                        }
                    }
                }
                11 => AuthRequest::SaslContinue(frame.body.slice(reader.position()..)),
                12 => AuthRequest::SaslFinal(frame.body.slice(reader.position()..)),
                other => AuthRequest::Unsupported(other),
            })
        },
    )
}

/// Reads `ParameterStatus`: a parameter's name and its value.
///
/// # Errors
/// When the frame is another message, or malformed.
pub fn parameter_status(frame: &Frame) -> Result<(String, String), ProtocolError> {
    decode(
        frame,
        tag::PARAMETER_STATUS,
        "in place of a parameter",
        |reader| {
            let name = c_str_lossy(reader, "parameter name")?;
            Ok((name, c_str_lossy(reader, "parameter value")?))
        },
    )
}

/// Reads the process id in `BackendKeyData`. The key after it is not kept: nothing is cancelled.
///
/// # Errors
/// When the frame is another message, or malformed.
pub fn backend_pid(frame: &Frame) -> Result<i32, ProtocolError> {
    decode(
        frame,
        tag::BACKEND_KEY_DATA,
        "in place of a process id",
        |reader| Ok(reader.u32_be("process id")?.cast_signed()),
    )
}

/// Reads `RowDescription`.
///
/// # Errors
/// When the frame is another message, or malformed.
pub fn row_description(frame: &Frame) -> Result<Vec<Column>, ProtocolError> {
    decode(
        frame,
        tag::ROW_DESCRIPTION,
        "in place of a row description",
        |reader| {
            let count = reader.u16_be("column count")?;
            (0..count)
                .map(|_| {
                    let name = c_str_lossy(reader, "column name")?;
                    reader.take(6, "column origin")?;
                    let type_oid = reader.u32_be("column type")?;
                    reader.take(8, "column size and format")?;
                    Ok(Column { name, type_oid })
                })
                .collect()
        },
    )
}

/// Reads `DataRow`: one slice of the frame for each column, `None` for NULL.
///
/// # Errors
/// When the frame is another message, or malformed.
pub fn data_row(frame: &Frame) -> Result<Vec<Option<Bytes>>, ProtocolError> {
    decode(frame, tag::DATA_ROW, "in place of a row", |reader| {
        let count = reader.u16_be("column count")?;
        (0..count)
            .map(|_| {
                let length = reader.u32_be("value length")?;
                if length == u32::MAX {
                    return Ok(None);
                }
                let start = reader.position();
                reader.take(length as usize, "value")?;
                Ok(Some(frame.body.slice(start..reader.position())))
            })
            .collect()
    })
}

fn decode<T>(
    frame: &Frame,
    expected: u8,
    during: &'static str,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<T, ProtocolError> {
    if frame.tag != expected {
        return Err(ProtocolError::unexpected(frame, during));
    }
    read(&mut Reader::new(&frame.body)).map_err(|source| ProtocolError::body(frame.tag, source))
}

/// Text up to a zero byte. Servers speak their own encoding until a session's is agreed, so what
/// is not UTF-8 is replaced, not refused.
pub(super) fn c_str_lossy(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<String, CodecError> {
    let length = reader.rest().iter().position(|byte| *byte == 0);
    let length = length.ok_or(CodecError::Text {
        field,
        at: reader.position(),
    })?;
    let text = String::from_utf8_lossy(reader.take(length, field)?).into_owned();
    reader.take(1, field)?;
    Ok(text)
}
