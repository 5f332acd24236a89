#!/usr/bin/env python3
"""Opens an archive from docs/format.md alone. It shares no code with walvault.

    opener.py open ARCHIVE OUT (--key-file FILE | --identity FILE --writer PUBLIC_KEY)
        opens every sealed object of an archive in a directory, and writes payloads below OUT under
        the objects' own names; what no identity given opens, such as the audit trail, is left out,
        and so is what no writer signed who holds a key file given or is named
    opener.py assemble OUT BACKUP DIR WAL
        makes a data directory DIR out of what was opened of one backup, puts all WAL into WAL as
        PostgreSQL names it, and says how to recover
    opener.py vectors FORMAT_MD
        checks the test vectors of the document
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import pathlib
import shutil
import struct
import sys

import lz4.block
import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FRAME = 262144
HEADER = 64
FOOTER = 40
ZERO_NONCE = bytes(12)
UNSEALED = ("keys", "probe", "by-hand", "lost+found")
CODECS = {0: "none", 1: "lz4", 2: "zstd"}
AUDIT_KINDS = (14, 15)


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


def writer_of(secret):
    """The public key that who holds a key file signs with."""
    seed = hkdf(secret, b"", b"walvault/v1/writer")
    return raw_public(Ed25519PrivateKey.from_private_bytes(seed).public_key())


def read_public_key(text):
    encoded = text.removeprefix("ed25519:")
    require(encoded != text, f"{text} is not a public key")
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def has_signed(writer, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(writer).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def read_key_record(stored, archive, key, generation):
    """What was signed, and who signed it."""
    require(stored["version"] == 1, "a newer key record")
    message = b"walvault/v1/data-key" + archive + stored["record"].encode()
    claims = [
        (read_public_key(claim["writer"]), base64.b64decode(claim["signature"]))
        for claim in stored["signatures"]
    ]
    writers = [writer for writer, signature in claims if has_signed(writer, message, signature)]
    record = json.loads(stored["record"])
    bound = bytes.fromhex(record["key_id"]) == key and record["generation"] == generation
    require(bound, "a key record under another's name")
    return record, writers


def unwrap(record, archive, key_files, identities):
    """The data key of a key record; None when it is for others."""
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
    if data_key is not None:
        commitment = hkdf(data_key, b"", b"walvault/v1/commitment" + archive + key)
        require(record["commitment"] == commitment.hex(), "not the data key that was signed")
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
    version, kind, codec, frame = struct.unpack("<HBBI", header[8:16])
    require(version == 1 and frame == FRAME and codec in CODECS, "a newer object")
    require(hashlib.sha256(raw[:-32]).digest() == footer[8:], "the object is damaged")
    meta_length, count = struct.unpack("<II", footer[:8])
    require(header[16:32] in data_keys, "no identity opens its data key")
    key, purpose = data_keys[header[16:32]]
    expected = "audit" if kind in AUDIT_KINDS else "data"
    require(purpose == expected, f"a data key for {purpose} seals nothing of this kind")
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


def load_data_keys(root, archive, key_files, identities, writers):
    """Data keys with their purposes: of each, the newest generation that a trusted writer signed."""
    found, foreign = {}, 0
    for folder in sorted((root / "keys").iterdir()):
        key = bytes.fromhex(folder.name)
        for path in sorted(folder.iterdir(), reverse=True):
            try:
                stored = json.loads(path.read_text())
                record, signed_by = read_key_record(stored, archive, key, int(path.name))
            except (Refused, ValueError, KeyError) as error:
                print(f"{path}: {error}", file=sys.stderr)
                continue
            # What the audit trail's data keys seal is signed itself.
            if record["purpose"] == "data" and not writers.intersection(signed_by):
                print(f"{path}: foreign, no trusted writer signed it", file=sys.stderr)
                foreign += 1
                continue
            data_key = unwrap(record, archive, key_files, identities)
            if data_key is not None:
                found[key] = (data_key, record["purpose"])
            break
    has_data = any(purpose == "data" for _, purpose in found.values())
    require(has_data or not foreign, "foreign: name the trusted writer with --writer")
    return found


def open_archive(root, out, key_files, identities, writers):
    archive = bytes.fromhex(json.loads((root / "archive.json").read_text())["archive_id"])
    writers = writers.union(map(writer_of, key_files))
    data_keys = load_data_keys(root, archive, key_files, identities, writers)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "archive.json", out)
    require(data_keys, "no identity given opens any data key of a trusted writer")
    opened = closed = 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        # What an export puts beside the objects lies at the top, and in by-hand.
        if not path.is_file() or "/" not in name or name.split("/")[0] in UNSEALED or name.startswith("locks/read/"):
            continue
        raw = path.read_bytes()
        if raw[:8] == b"WALVAULT" and raw[16:32] not in data_keys:
            closed += 1
            continue
        try:
            payload = open_object(raw, name, archive, data_keys)
        except Exception as error:
            raise Refused(f"{name}: {error!r}") from error
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(payload)
        opened += 1
    print(f"opened {opened} objects; {closed} are for others to open")


# A data directory.


def path_of(entry):
    path = entry["path"]
    return os.fsencode(path) if isinstance(path, str) else bytes.fromhex(path["hex"])


def safe(path):
    parts = path.split(b"/")
    require(not path.startswith(b"/") and b".." not in parts, f"{path!r} leads elsewhere")
    return path


def place(opened, backup, pgdata):
    """Writes the files of a backup; tablespaces go into directories beside the data directory."""
    folder = opened / "backups" / backup
    listed = json.loads((folder / "files").read_text())
    parts = [
        opened / "backups" / part.get("backup", backup) / f"part-{part['number']:08}"
        for part in listed["parts"]
    ]
    record = json.loads((folder / "record").read_text())
    spaces = {
        str(space["oid"]): pathlib.Path(f"{pgdata}.tablespaces", str(space["oid"]))
        for space in record["tablespaces"]
    }
    pgdata.mkdir(mode=0o700)
    for space in spaces.values():
        space.mkdir(mode=0o700, parents=True)

    def target(path):
        steps = safe(path).split(b"/", 2)
        if steps[0] == b"pg_tblspc" and len(steps) > 1 and os.fsdecode(steps[1]) in spaces:
            root = os.fsencode(spaces[os.fsdecode(steps[1])])
            return os.path.join(root, *steps[2:])
        return os.path.join(os.fsencode(pgdata), path)

    for entry in listed["files"]:
        path = target(path_of(entry))
        if entry["kind"] == "directory":
            os.makedirs(path, mode=0o700, exist_ok=True)
        elif entry["kind"] == "file":
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(path, "wb") as file:
                for extent in entry.get("extents", []):
                    with open(parts[extent["part"]], "rb") as part:
                        part.seek(extent["offset"])
                        file.write(part.read(extent["length"]))
            os.chmod(path, entry["mode"] & 0o777)
            require(os.path.getsize(path) == entry["size"], f"{path!r} has another size")
        else:
            # Links to tablespaces are PostgreSQL's to make, from tablespace_map. walvault stores no others.
            steps = safe(path_of(entry)).split(b"/")
            is_space = len(steps) == 2 and steps[0] == b"pg_tblspc" and os.fsdecode(steps[1]) in spaces
            require(is_space, f"{path!r} is a link that is no tablespace's")
    if spaces:
        lines = [f"{oid} {space.resolve()}\n" for oid, space in spaces.items()]
        (pgdata / "tablespace_map").write_text("".join(lines))
    shutil.copy(folder / "backup_manifest", pgdata)
    (pgdata / "recovery.signal").touch(mode=0o600)


def collect_wal(opened, wal):
    """Segments and histories under the names that PostgreSQL asks for. What a segment lacks at its
    end is filled with zeros, as PostgreSQL itself does."""
    size = json.loads((opened / "archive.json").read_text())["segment_size"]
    wal.mkdir(mode=0o700, parents=True)
    # Chunks first, so that whole segments are written over what they repeat.
    found = sorted((opened / "tail").glob("*/*/*")) + sorted((opened / "wal").rglob("*"))
    for path in found:
        if not path.is_file():
            continue
        payload, name = path.read_bytes(), path.name
        start = 0
        if path.suffix == ".history":
            (wal / name).write_bytes(payload)
            continue
        if path.is_relative_to(opened / "tail"):
            end, length = (int(number, 16) for number in path.name.split("-"))
            name, start = path.parent.name, (end - length) % size
        elif "." in name:
            name, span = name.split(".")
            start = int(span.split("-")[0], 16) % size
        if not (wal / name).exists():
            with open(wal / name, "wb") as file:
                file.truncate(size)
        with open(wal / name, "r+b") as file:
            file.seek(start)
            file.write(payload)


def assemble(opened, backup, pgdata, wal):
    place(opened, backup, pgdata)
    collect_wal(opened, wal)
    print(
        f"Add to {pgdata / 'postgresql.auto.conf'}, with a recovery_target if you want one:\n\n"
        f"restore_command = 'cp \"{wal.resolve()}/%f\" \"%p\"'\n"
        f"recovery_target_timeline = 'latest'\n"
        f"archive_mode = 'off'\n"
        f"synchronous_standby_names = ''\n\n"
        f"Then start PostgreSQL {json.loads((opened / 'backups' / backup / 'record').read_text())['server_version'] // 10000} on it."
    )


def check_vectors(document):
    _, _, section = document.partition("## Test vectors\n")
    vectors = json.loads(section.partition("```json\n")[2].partition("```")[0])
    archive, key = (bytes.fromhex(vectors[name]) for name in ("archive_id", "key_id"))
    data_key = bytes.fromhex(vectors["data_key"])
    secret = read_key_file(vectors["key_file"])
    require(secret.hex() == vectors["key_file_secret"], "key_file")
    require(key_file_fingerprint(secret) == vectors["key_file_fingerprint"], "fingerprint")
    identities = read_age_identities(vectors["age_identity"])
    record, writers = read_key_record(vectors["key_record"], archive, key, 1)
    require(writers == [writer_of(secret)], "key_record")
    require(writers == [read_public_key(vectors["key_file_writer"])], "key_file_writer")
    for recipient in record["recipients"]:
        one = {**record, "recipients": [recipient]}
        require(unwrap(one, archive, [secret], identities) == data_key, recipient["kind"])
    sealed = bytes.fromhex(vectors["object"])
    derived = object_key(data_key, archive, sealed[32:64])
    require(derived.hex() == vectors["object_key"], "object_key")
    payload = open_object(sealed, vectors["object_name"], archive, {key: (data_key, "data")})
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
    opening.add_argument("--writer", action="append", default=[])
    assembling = commands.add_parser("assemble")
    for name in ("opened", "backup", "pgdata", "wal"):
        assembling.add_argument(name, type=str if name == "backup" else pathlib.Path)
    commands.add_parser("vectors").add_argument("document", type=pathlib.Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "vectors":
            check_vectors(arguments.document.read_text())
            return
        if arguments.command == "assemble":
            assemble(arguments.opened, arguments.backup, arguments.pgdata, arguments.wal)
            return
        key_files = [read_key_file(path.read_text()) for path in arguments.key_file]
        texts = [path.read_text() for path in arguments.identity]
        identities = [identity for text in texts for identity in read_age_identities(text)]
        writers = set(map(read_public_key, arguments.writer))
        open_archive(arguments.archive, arguments.out, key_files, identities, writers)
    except Refused as error:
        sys.exit(f"opener: {error}")


if __name__ == "__main__":
    main()
