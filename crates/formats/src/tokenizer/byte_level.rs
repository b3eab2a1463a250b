//! The printable letters that byte-level BPE writes for bytes (GPT-2's `bytes_to_unicode`):
//! printable Latin-1 stands for itself, the other 68 bytes for the letters from U+0100 on, in
//! order.

/// Whether a byte stands for itself.
fn is_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The letter for a byte.
fn letter(byte: u8) -> char {
    if is_itself(byte) {
        return char::from(byte);
    }
    let index = (0..byte).filter(|&below| !is_itself(below)).count() as u32;
    char::from_u32(0x100 + index).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Both directions of the table.
pub(super) struct ByteLetters {
    letters: [char; 256],
}

impl ByteLetters {
    pub(super) fn new() -> Self {
        Self { letters: std::array::from_fn(|byte| letter(byte as u8)) }
    }

    /// Bytes as letters.
    pub(super) fn spell(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|&byte| self.letters[usize::from(byte)]).collect()
    }

    /// Letters as bytes; `None` where a letter is none of the table's.
    pub(super) fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        let byte = |letter: char| match letter as u32 {
            code @ 0..0x100 => u8::try_from(code).ok().filter(|&byte| is_itself(byte)),
            _ => self.letters.iter().position(|&other| other == letter).map(|byte| byte as u8),
        };
        text.chars().map(byte).collect()
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
}
