//! As much of MessagePack as the control socket speaks: nil, booleans, integers, doubles, strings, bytes, arrays.
//!
//! By hand, because it is one page: values are read straight out of the message, strictly, and nothing is allocated here.

/// The bytes are not what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

pub type Result<T> = std::result::Result<T, Malformed>;

/// Reads values one after the other.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Fails if something is left.
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(size).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, size: usize) -> Result<u64> {
        Ok(self.take(size)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// Whether nil is next; it is taken then.
    pub fn nil(&mut self) -> bool {
        let is_nil = self.rest.first() == Some(&0xC0);
        if is_nil {
            self.rest = &self.rest[1..];
        }
        is_nil
    }

    pub fn boolean(&mut self) -> Result<bool> {
        match self.byte()? {
            0xC2 => Ok(false),
            0xC3 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// A number that isn't negative.
    pub fn unsigned(&mut self) -> Result<u64> {
        match self.byte()? {
            small @ 0..=0x7F => Ok(u64::from(small)),
            0xCC => self.number(1),
            0xCD => self.number(2),
            0xCE => self.number(4),
            0xCF => self.number(8),
            _ => Err(Malformed),
        }
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.unsigned()?.try_into().map_err(|_| Malformed)
    }

    /// A double, or a whole number in its place.
    pub fn real(&mut self) -> Result<f64> {
        if self.rest.first() == Some(&0xCB) {
            self.byte()?;
            return Ok(f64::from_bits(self.number(8)?));
        }
        Ok(self.unsigned()? as f64)
    }

    pub fn text(&mut self) -> Result<&'a str> {
        let size = match self.byte()? {
            short @ 0xA0..=0xBF => usize::from(short & 31),
            0xD9 => self.number(1)? as usize,
            0xDA => self.number(2)? as usize,
            0xDB => self.number(4)? as usize,
            _ => return Err(Malformed),
        };
        std::str::from_utf8(self.take(size)?).map_err(|_| Malformed)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let size = match self.byte()? {
            0xC4 => self.number(1)? as usize,
            0xC5 => self.number(2)? as usize,
            0xC6 => self.number(4)? as usize,
            _ => return Err(Malformed),
        };
        self.take(size)
    }

    /// How many values follow in the array that begins here.
    pub fn array(&mut self) -> Result<usize> {
        match self.byte()? {
            short @ 0x90..=0x9F => Ok(usize::from(short & 15)),
            0xDC => Ok(self.number(2)? as usize),
            0xDD => Ok(self.number(4)? as usize),
            _ => Err(Malformed),
        }
    }

    /// The start of an array of exactly `size` values.
    pub fn array_of(&mut self, size: usize) -> Result<()> {
        if self.array()? == size { Ok(()) } else { Err(Malformed) }
    }
}

/// Appends values to a message.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Begins an array of fewer than 16 values.
    pub fn array(&mut self, size: u8) {
        self.0.push(0x90 | size & 15);
    }

    pub fn nil(&mut self) {
        self.0.push(0xC0);
    }

    pub fn unsigned(&mut self, value: u64) {
        if let Ok(small @ 0..=0x7F) = u8::try_from(value) {
            self.0.push(small);
        } else {
            self.0.push(0xCF);
            self.0.extend_from_slice(&value.to_be_bytes());
        }
    }

    pub fn real(&mut self, value: f64) {
        self.0.push(0xCB);
        self.0.extend_from_slice(&value.to_bits().to_be_bytes());
    }

    pub fn text(&mut self, value: &str) {
        self.0.push(0xDB);
        self.0.extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.0.extend_from_slice(value.as_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.0.push(0xC6);
        self.0.extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.0.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.array(6);
        writer.unsigned(5);
        writer.unsigned(1 << 40);
        writer.real(1.5);
        writer.text("fd00::1");
        writer.bytes(&[1, 2, 3]);
        writer.nil();
        let mut reader = Reader::new(&writer.0);
        reader.array_of(6).unwrap();
        assert_eq!(reader.unsigned(), Ok(5));
        assert_eq!(reader.unsigned(), Ok(1 << 40));
        assert_eq!(reader.real(), Ok(1.5));
        assert_eq!(reader.text(), Ok("fd00::1"));
        assert_eq!(reader.bytes(), Ok(&[1u8, 2, 3][..]));
        assert!(reader.nil());
        reader.end().unwrap();
    }

    #[test]
    fn claims_beyond_the_message_are_refused() {
        assert_eq!(Reader::new(&[0xC6, 0xFF, 0xFF, 0xFF, 0xFF, 1]).bytes(), Err(Malformed));
        assert_eq!(Reader::new(&[0xCF, 1]).unsigned(), Err(Malformed));
        assert_eq!(Reader::new(&[0xA2, 0xFF, 0xFE]).text(), Err(Malformed));
        assert_eq!(Reader::new(&[]).array(), Err(Malformed));
    }
}
