//! Standard Webhooks signatures (standardwebhooks.com, specification 1.0): HMAC-SHA256 over `id.timestamp.body`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::call::Timestamp;
use crate::config::ConfigError;

/// Signs with one secret. Its `Debug` shows nothing of it.
pub struct Signer(Hmac<Sha256>);

impl Signer {
    /// `secret`: `whsec_` and base64 of 24 to 64 bytes.
    pub fn new(variable: &str, secret: &str) -> Result<Self, ConfigError> {
        let wrong = |problem: &str| {
            ConfigError::new(
                variable,
                format!(
                    "{problem}. It is whsec_ followed by base64 of 24 to 64 random bytes, such as the output of: \
                         echo whsec_$(openssl rand -base64 32)"
                ),
            )
        };
        let encoded = secret.trim().strip_prefix("whsec_").ok_or_else(|| wrong("does not begin with whsec_"))?;
        let key = STANDARD
            .decode(encoded)
            .or_else(|_| STANDARD_NO_PAD.decode(encoded))
            .map_err(|_| wrong("is not base64 after whsec_"))?;
        if !(24..=64).contains(&key.len()) {
            return Err(wrong(&format!("holds {} bytes", key.len())));
        }
        Hmac::new_from_slice(&key).map(Self).map_err(|_| wrong("cannot be used as a key"))
    }

    /// The values of `webhook-timestamp` and `webhook-signature`. `id` is the value of `webhook-id` as sent.
    pub fn sign(&self, id: &str, now: Timestamp, body: &[u8]) -> (String, String) {
        let timestamp = now.secs().to_string();
        let mut mac = self.0.clone();
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        (timestamp, format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_the_specification_says() {
        // the example of the reference libraries' test suites
        let signer = Signer::new("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("secret");
        let (timestamp, signature) = signer.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            Timestamp::from_secs(1_614_265_330),
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(timestamp, "1614265330");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_wrong_secret_is_told_without_being_shown() {
        for secret in ["hunter2hunter2", "whsec_!!!", "whsec_c2hvcnQ="] {
            let error = Signer::new("WEBHOOK_SECRET", secret).expect_err(secret).to_string();
            assert!(error.starts_with("WEBHOOK_SECRET: ") && !error.contains(secret), "{error}");
        }
    }
}
