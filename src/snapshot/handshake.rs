//! TLS of a listener: with which cipher a client is answered.
//!
//! weir's own order has AES-128 with SHA-256 first, for which both sides' processors have instructions. Only a client that would
//! rather have ChaCha20 than AES has none of those, and is answered in its own order.

use rustls::server::ClientHello;
use rustls::{CipherSuite, ServerConfig};
use std::sync::Arc;

/// One configuration in two orders.
#[derive(Debug)]
pub struct ListenerTls {
    /// weir's order.
    pub in_own_order: Arc<ServerConfig>,
    /// The client's.
    pub in_clients_order: Arc<ServerConfig>,
}

impl ListenerTls {
    /// The configuration for the client that says this.
    pub fn for_client(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let order = if prefers_chacha(hello.cipher_suites()) { &self.in_clients_order } else { &self.in_own_order };
        Arc::clone(order)
    }
}

/// Whether ChaCha20 comes before all else. What is not known stands there so that servers get used to it (RFC 8701).
fn prefers_chacha(suites: &[CipherSuite]) -> bool {
    let first = suites.iter().find(|suite| !matches!(suite, CipherSuite::Unknown(_)));
    matches!(
        first,
        Some(
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_would_rather_have_chacha_than_aes_is_answered_in_its_own_order() {
        let (aes, chacha) = (CipherSuite::TLS13_AES_256_GCM_SHA384, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        let grease = CipherSuite::Unknown(0x0a0a);
        assert!(prefers_chacha(&[chacha, aes]));
        assert!(prefers_chacha(&[grease, chacha, aes]));
        assert!(!prefers_chacha(&[aes, chacha]));
        assert!(!prefers_chacha(&[grease, aes, chacha]));
        assert!(!prefers_chacha(&[]));
    }
}
