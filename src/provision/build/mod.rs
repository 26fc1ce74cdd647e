//! Rows of what was asked for. Pure; the sets are those a real Asterisk was seen to work with.

mod dialplan;
mod phone;
mod queue;
mod trunk;

pub use dialplan::{dial_data, internal_rows};
pub use phone::rows as extension_rows;
pub use queue::rows as queue_rows;
pub use trunk::rows as trunk_rows;

use md5::{Digest, Md5};
use secrecy::{ExposeSecret, SecretString};

use super::model::Secret;
use super::table::{Row, Table};

/// The `ps_auths` row of a login.
fn auth_row(id: &str, username: &str, secret: &Secret) -> Row {
    let row = Row::new(Table::Auths, [id]).set("username", username);
    match secret {
        Secret::Password(password) => {
            row.set("auth_type", "userpass").set("password", password.expose_secret()).null("md5_cred")
        }
        Secret::Digest { realm, password } => row
            .set("auth_type", "md5")
            .set("realm", realm)
            .set("md5_cred", md5_credential(username, realm, password))
            .null("password"),
        Secret::Keep => row.standing("password_env or password_file"),
    }
}

/// md5(username:realm:password) as lower case hex.
fn md5_credential(username: &str, realm: &str, password: &SecretString) -> String {
    let mut md5 = Md5::new();
    md5.update(format!("{username}:{realm}:{}", password.expose_secret()));
    md5.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn digest_as_sip_makes_it() {
        let digest = super::md5_credential("A", "3CXPhoneSystem", &"pw".to_owned().into());
        assert_eq!(digest, "0b2730ab8d77c2fe8d3439356af2e8aa");
    }
}
