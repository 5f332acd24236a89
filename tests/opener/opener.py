#!/usr/bin/env python3
"""Opens an archive from docs/format.md alone. It shares no code with walvault.

    opener.py open ARCHIVE OUT (--key-file FILE | --identity FILE)
        opens every sealed object of an archive in a directory, and writes payloads below OUT under
        the objects' own names
    opener.py vectors FORMAT_MD
        checks the test vectors of the document
"""

import argparse
import base64
import hashlib
import hmac
import json
import pathlib
import struct
import sys

import lz4.block
import zstandard
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FRAME = 262144
HEADER = 64
FOOTER = 40
ZERO_NONCE = bytes(12)
CODECS = {0: "none", 1: "lz4", 2: "zstd"}


class Refused(Exception):
    """Something is not what was stored."""


def require(condition, what):
    if not condition:
        raise Refused(what)


def hkdf(ikm, salt, info, length=32):
    return HKDF(hashes.SHA256(), length, salt or None, info).derive(ikm)


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = crc_table()


def crc32c(data):
    table, crc = CRC_TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# Key files.


def read_key_file(text):
    lines = [line.strip() for line in text.splitlines()]
    (line,) = [line for line in lines if line and not line.startswith("#")]
    encoded = line.removeprefix("walvault-key-1-")
    require(encoded != line, "not a key file")
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    secret, crc = raw[:32], struct.unpack("<I", raw[32:])[0]
    require(crc == crc32c(secret), "the key file was altered")
    return secret


def key_file_fingerprint(secret):
    return hkdf(secret, b"", b"walvault/v1/key-file-id")[:8].hex()


def unwrap_with_key_file(secret, archive, key, wrapped):
    salt, sealed = wrapped[:32], wrapped[32:]
    wrapping = hkdf(secret, salt, b"walvault/v1/wrap" + archive + key)
    return AESGCM(wrapping).decrypt(ZERO_NONCE, sealed, b"")


# age, https://age-encryption.org/v1, with X25519 recipients.

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def unpadded(text):
    return base64.b64decode(text + "=" * (-len(text) % 4))


def bech32_data(text):
    data = text.lower().rpartition("1")[2][:-6]
    bits = value = 0
    out = bytearray()
    for char in data:
        value = value << 5 | BECH32.index(char)
        bits += 5
        if bits >= 8:
            bits -= 8
            out.append(value >> bits & 255)
    return bytes(out)


def read_age_identities(text):
    lines = [line.strip() for line in text.splitlines()]
    return [
        X25519PrivateKey.from_private_bytes(bech32_data(line))
        for line in lines
        if line.startswith("AGE-SECRET-KEY-1")
    ]


def raw_public(key):
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def age_file_key(identity, stanzas):
    for arguments, body in stanzas:
        if arguments[0] != "X25519":
            continue
        share = unpadded(arguments[1])
        shared = identity.exchange(X25519PublicKey.from_public_bytes(share))
        salt = share + raw_public(identity.public_key())
        wrapping = hkdf(shared, salt, b"age-encryption.org/v1/X25519")
        try:
            return ChaCha20Poly1305(wrapping).decrypt(ZERO_NONCE, body, b"")
        except Exception:
            continue
    return None


def open_age(identity, file):
    """The payload of an age file of one chunk; None when it is for somebody else."""
    head, _, rest = file.partition(b"\n--- ")
    lines = head.decode().split("\n")
    require(lines[0] == "age-encryption.org/v1", "not an age file")
    stanzas = []
    at = 1
    while at < len(lines):
        arguments = lines[at].removeprefix("-> ").split(" ")
        at += 1
        body = ""
        while True:
            body += lines[at]
            at += 1
            if len(lines[at - 1]) < 64:
                break
        stanzas.append((arguments, unpadded(body)))
    key = age_file_key(identity, stanzas)
    if key is None:
        return None
    mac, _, payload = rest.partition(b"\n")
    expected = hmac.digest(hkdf(key, b"", b"header"), head + b"\n---", "sha256")
    require(hmac.compare_digest(expected, unpadded(mac.decode())), "the age header was altered")
    nonce, chunk = payload[:16], payload[16:]
    return ChaCha20Poly1305(hkdf(key, nonce, b"payload")).decrypt(bytes(11) + b"\x01", chunk, b"")


# Data keys.


def check_value(data_key, archive, key):
    checking = hkdf(data_key, b"", b"walvault/v1/check" + archive + key)
    return AESGCM(checking).encrypt(ZERO_NONCE, b"walvault: this data key is right", b"")


def unwrap(record, archive, key_files, identities):
    """The data key of a key record; None when it is for others."""
    require(record["version"] in (1, 2, 3), "a newer key record")
    key = bytes.fromhex(record["key_id"])
    data_key = None
    for recipient in record["recipients"]:
        wrapped = base64.b64decode(recipient["wrapped"])
        if recipient["kind"] == "key-file":
            for secret in key_files:
                if key_file_fingerprint(secret) == recipient["fingerprint"]:
                    data_key = unwrap_with_key_file(secret, archive, key, wrapped)
        elif recipient["kind"] == "age" and recipient["recipient"].startswith("age:"):
            for identity in identities:
                plain = open_age(identity, wrapped)
                if plain is not None:
                    require(plain[32:] == archive + key, "a data key of another archive")
                    data_key = plain[:32]
    if data_key is not None and "check" in record:
        expected = check_value(data_key, archive, key)
        require(base64.b64decode(record["check"]) == expected, "not the data key of the check")
    return data_key


# Objects.


def object_key(data_key, archive, salt):
    return hkdf(data_key, salt, b"walvault/v1/object" + archive)


def decompress(codec, stored, length):
    if codec == "lz4":
        return lz4.block.decompress(stored, uncompressed_size=length)
    require(codec == "zstd", "a compressed frame of an object that has no codec")
    return zstandard.ZstdDecompressor().decompress(stored, max_output_size=length)


def open_object(raw, name, archive, data_keys):
    """The payload of a sealed object that lies under a name."""
    header, footer = raw[:HEADER], raw[-FOOTER:]
    require(len(raw) >= HEADER + FOOTER and header[:8] == b"WALVAULT", "not a sealed object")
    version, _kind, codec, frame = struct.unpack("<HBBI", header[8:16])
    require(version == 1 and frame == FRAME and codec in CODECS, "a newer object")
    require(hashlib.sha256(raw[:-32]).digest() == footer[8:], "the object is damaged")
    meta_length, count = struct.unpack("<II", footer[:8])
    key = data_keys.get(header[16:32])
    require(key is not None, "no identity opens its data key")
    cipher = AESGCM(object_key(key, archive, header[32:]))
    bound = archive + header + name.encode()

    def decrypt(number, mark, sealed):
        return cipher.decrypt(struct.pack(">QB3x", number, mark), sealed, bound)

    meta_at = len(raw) - FOOTER - meta_length
    meta = decrypt(count, 1, raw[meta_at:-FOOTER])
    length, crc, frames, attached = struct.unpack("<QIII", meta[:20])
    require(frames == count == -(-length // FRAME), "frame counts differ")
    require(len(meta) == 20 + 4 * count + attached, "the meta frame has another length")
    payload, at = bytearray(), HEADER
    for number, entry in enumerate(struct.unpack(f"<{count}I", meta[20 : 20 + 4 * count])):
        stored, is_raw = entry & 0x7FFFFFFF, entry >> 31
        plain = decrypt(number, 0, raw[at : at + stored])
        expected = min(FRAME, length - number * FRAME)
        if not is_raw:
            plain = decompress(CODECS[codec], plain, expected)
        require(len(plain) == expected, "a frame has another length")
        payload += plain
        at += stored
    require(at == meta_at and crc32c(payload) == crc, "the payload is not what was sealed")
    return bytes(payload)


def load_data_keys(root, archive, key_files, identities):
    found = {}
    for folder in sorted((root / "keys").iterdir()):
        newest = max(folder.iterdir(), key=lambda path: path.name)
        key = unwrap(json.loads(newest.read_text()), archive, key_files, identities)
        if key is not None:
            found[bytes.fromhex(folder.name)] = key
    return found


def open_archive(root, out, key_files, identities):
    archive = bytes.fromhex(json.loads((root / "archive.json").read_text())["archive_id"])
    data_keys = load_data_keys(root, archive, key_files, identities)
    opened = 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        top = name.split("/")[0]
        if not path.is_file() or top in ("archive.json", "keys", "probe"):
            continue
        try:
            payload = open_object(path.read_bytes(), name, archive, data_keys)
        except Exception as error:
            raise Refused(f"{name}: {error!r}") from error
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(payload)
        opened += 1
    print(f"opened {opened} objects")


def check_vectors(document):
    _, _, section = document.partition("## Test vectors\n")
    vectors = json.loads(section.partition("```json\n")[2].partition("```")[0])
    archive, key = (bytes.fromhex(vectors[name]) for name in ("archive_id", "key_id"))
    data_key = bytes.fromhex(vectors["data_key"])
    secret = read_key_file(vectors["key_file"])
    require(secret.hex() == vectors["key_file_secret"], "key_file")
    require(key_file_fingerprint(secret) == vectors["key_file_fingerprint"], "fingerprint")
    identities = read_age_identities(vectors["age_identity"])
    for recipient in vectors["key_record"]["recipients"]:
        record = {**vectors["key_record"], "recipients": [recipient]}
        require(unwrap(record, archive, [secret], identities) == data_key, recipient["kind"])
    sealed = bytes.fromhex(vectors["object"])
    derived = object_key(data_key, archive, sealed[32:64])
    require(derived.hex() == vectors["object_key"], "object_key")
    payload = open_object(sealed, vectors["object_name"], archive, {key: data_key})
    require(payload.decode() == vectors["payload"], "payload")
    print("every vector holds")


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    opening = commands.add_parser("open")
    opening.add_argument("archive", type=pathlib.Path)
    opening.add_argument("out", type=pathlib.Path)
    opening.add_argument("--key-file", type=pathlib.Path, action="append", default=[])
    opening.add_argument("--identity", type=pathlib.Path, action="append", default=[])
    commands.add_parser("vectors").add_argument("document", type=pathlib.Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "vectors":
            check_vectors(arguments.document.read_text())
            return
        key_files = [read_key_file(path.read_text()) for path in arguments.key_file]
        texts = [path.read_text() for path in arguments.identity]
        identities = [identity for text in texts for identity in read_age_identities(text)]
        open_archive(arguments.archive, arguments.out, key_files, identities)
    except Refused as error:
        sys.exit(f"opener: {error}")


if __name__ == "__main__":
    main()
