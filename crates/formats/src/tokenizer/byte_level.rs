//! GPT-2's byte alphabet (`bytes_to_unicode`). Byte-level vocabularies are stored as text: each of
//! the 256 bytes is written as one printable letter, itself where it is printable Latin-1, else the
//! next of the letters from U+0100 on.

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

/// The byte a letter stands for.
fn byte_of(letter: char) -> Option<u8> {
    BYTE_OF.get(letter as usize).and_then(|&byte| u8::try_from(byte).ok())
}

/// Appends the bytes that a stored token stands for. A token with a letter outside the alphabet (some
/// special tokens) is kept as it is spelled.
pub fn decode_into(token: &[u8], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for letter in std::str::from_utf8(token).unwrap_or("\u{FFFD}").chars() {
        match byte_of(letter) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(token);
                return;
            }
        }
    }
}

/// Both directions of the table.
pub(super) struct ByteLetters {
    letters: [char; 256],
}

impl ByteLetters {
    pub(super) fn new() -> Self {
        let mut letters = [char::REPLACEMENT_CHARACTER; 256];
        for letter in (0..BYTE_OF.len() as u32).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(letter) {
                letters[usize::from(byte)] = letter;
            }
        }
        Self { letters }
    }

    /// Bytes as letters.
    pub(super) fn spell(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|&byte| self.letters[usize::from(byte)]).collect()
    }

    /// Letters as bytes; `None` where a letter is none of the table's.
    pub(super) fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(byte_of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_survive_and_known_letters_are_right() {
        let table = ByteLetters::new();
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(table.bytes(&table.spell(&all)), Some(all));
        assert_eq!(table.spell(b" \n\xadz"), "ĠĊŃz");
        assert_eq!(table.bytes(" "), None);
    }

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
