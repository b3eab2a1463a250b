//! GPT-2's byte alphabet. Byte-level vocabularies are stored as text: each of the 256 bytes is written as one
//! printable character (itself where it is printable ASCII or Latin-1, else the next of U+0100...). This crate keeps
//! tokens as raw bytes and uses the alphabet only at the border.

/// Bytes that stand for themselves.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The byte that each of the first 0x144 characters stands for; -1 where none.
const BYTE_OF: [i16; 0x144] = {
    let mut table = [-1i16; 0x144];
    let mut next = 0x100;
    let mut byte = 0usize;
    while byte < 256 {
        if is_printable(byte as u8) {
            table[byte] = byte as i16;
        } else {
            table[next] = byte as i16;
            next += 1;
        }
        byte += 1;
    }
    table
};

/// Appends the bytes that a stored token stands for. A token with a character outside the alphabet (some special
/// tokens) is kept as it is spelled.
pub(crate) fn decode_into(token: &[u8], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in std::str::from_utf8(token).unwrap_or("\u{FFFD}").chars() {
        match BYTE_OF.get(c as usize) {
            Some(&byte) if byte >= 0 => bytes.push(byte as u8),
            _ => {
                bytes.truncate(start);
                bytes.extend_from_slice(token);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen = [0; 256];
        for byte in BYTE_OF.into_iter().filter(|byte| *byte >= 0) {
            seen[byte as usize] += 1;
        }
        assert_eq!(seen, [1; 256]);
        assert!((0..=255).all(|byte| !is_printable(byte) || BYTE_OF[byte as usize] == i16::from(byte)));
    }

    #[test]
    fn tokens_become_bytes() {
        let mut bytes = Vec::new();
        decode_into("ĠtÃ©".as_bytes(), &mut bytes);
        assert_eq!(bytes, " té".as_bytes());
        bytes.clear();
        decode_into("<｜end▁of▁sentence｜>".as_bytes(), &mut bytes);
        assert_eq!(bytes, "<｜end▁of▁sentence｜>".as_bytes());
    }
}
