//! Bytes that are nearly always text, such as log lines: a JSON string where they are UTF-8, a list of numbers where not.
//! A plain list costs four times the bytes.

use serde::{
    Deserializer, Serialize as _, Serializer,
    de::{Error, SeqAccess, Visitor},
};

pub(crate) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => s.serialize_str(text),
        Err(_) => bytes.serialize(s),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    d.deserialize_any(TextOrBytes)
}

struct TextOrBytes;

impl<'de> Visitor<'de> for TextOrBytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("text or bytes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(4096));
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_is_a_string_and_anything_comes_back() {
        #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
        struct Line(#[serde(with = "super")] Vec<u8>);
        for (bytes, json) in [(b"h\xc3\xa9\n".to_vec(), "\"h\u{e9}\\n\""), (vec![255, 0], "[255,0]"), (vec![], "\"\"")]
        {
            let line = Line(bytes);
            assert_eq!(serde_json::to_string(&line).unwrap(), json);
            assert_eq!(serde_json::from_str::<Line>(json).unwrap(), line);
        }
    }
}
