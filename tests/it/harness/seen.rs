//! A request as an origin saw it.

use bytes::Bytes;

/// One request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// On which connection, counted from 1.
    pub connection: u64,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Fields in order, names in lower case; `:authority` for HTTP/2's.
    pub fields: Vec<(String, String)>,
    /// Bytes of the body that have arrived.
    pub body_bytes: u64,
    /// CRC-32 of those.
    pub body_checksum: u32,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// Whether the body came to its proper end.
    pub complete: bool,
}

impl Seen {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// What an origin says of it that describes what it was asked.
    pub fn describe(&self, origin: &str) -> Bytes {
        let description = serde_json::json!({
            "origin": origin, "version": self.version, "method": self.method, "target": self.target,
            "fields": self.fields, "body_bytes": self.body_bytes, "body_checksum": self.body_checksum,
            "trailers": self.trailers,
        });
        Bytes::from(description.to_string())
    }
}
