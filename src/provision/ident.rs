//! Ids: stable, free of collisions, short enough for every column that repeats them.

use sha2::{Digest, Sha256};

use super::error::{Error, Result};

/// A context column takes 40 characters and a trunk's contexts add `-out`.
pub const MAX_ID: usize = 36;
const MAX_NAMESPACE: usize = 12;

/// `cf`: lower case letters and digits, so that `cf_` and `cft_` are never each other's prefix; and no `t` at its end,
/// which the namespace of `trunk add` has: `cft` for the file would prune the trunks added beside the file of `cf`.
pub fn check_namespace(ns: &str) -> Result<()> {
    let fine = (1..=MAX_NAMESPACE).contains(&ns.len())
        && ns.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && ns.as_bytes()[0].is_ascii_lowercase()
        && !ns.ends_with('t');
    if fine {
        return Ok(());
    }
    Err(Error::input(format!(
        "PROVISION_NAMESPACE {ns:?} is not 1 to {MAX_NAMESPACE} lower case letters and digits, a letter first and no t at the end: \
<namespace>t is that of `trunk add`"
    )))
}

/// `<ns>_<slug of host>_<extension>`. Where the slug loses something (a dash beside the dots, capitals in the extension)
/// or is too long, a digest of what was given makes it unique; a host is the same in any case of letters.
pub fn trunk_id(ns: &str, host: &str, extension: &str) -> Result<String> {
    let host = host.to_lowercase();
    let slug = slug(&host);
    let ext: String = extension.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    if slug.is_empty() || ext.is_empty() {
        return Err(Error::input(format!("neither {host:?} nor {extension:?} may be without letters and digits")));
    }
    let lossless = slug == host.replace('.', "_") && !host.contains('_') && ext == extension && !host.contains("..");
    let id = format!("{ns}_{slug}_{ext}");
    if lossless && id.len() <= MAX_ID {
        return Ok(id);
    }
    let mut hash = Sha256::new();
    hash.update(host.as_bytes());
    hash.update([0]);
    hash.update(extension.as_bytes());
    let digest: String = hash.finalize().iter().take(4).map(|b| format!("{b:02x}")).collect();
    let mut id: String = id.chars().take(MAX_ID - 9).collect();
    id.truncate(id.trim_end_matches('_').len());
    Ok(format!("{id}_{digest}"))
}

/// Runs of anything but letters and digits as one underscore.
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('_') {
            slug.push('_');
        }
    }
    slug.truncate(slug.trim_end_matches('_').len());
    slug
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_readable_and_distinct() {
        assert_eq!(trunk_id("cf", "1156.3cx.cloud", "12611").unwrap(), "cf_1156_3cx_cloud_12611");
        assert_eq!(trunk_id("cf", "PBX.Example.com", "100").unwrap(), "cf_pbx_example_com_100");
        let dashed = trunk_id("cf", "acme-sales.3cx.eu", "200").unwrap();
        let dotted = trunk_id("cf", "acme.sales.3cx.eu", "200").unwrap();
        assert_eq!(dotted, "cf_acme_sales_3cx_eu_200");
        assert!(dashed.starts_with("cf_acme_sales_3cx_eu_200_") && dashed.len() == dotted.len() + 9, "{dashed}");
        let long = trunk_id("cf", "mycompany-berlin.my3cx.de", "20001").unwrap();
        assert!(long.len() <= MAX_ID && format!("{long}-out").len() <= 40, "{long}");
        assert_eq!(long, trunk_id("cf", "mycompany-berlin.my3cx.de", "20001").unwrap());
        assert_ne!(trunk_id("cf", "a.b", "X").unwrap(), trunk_id("cf", "a.b", "x").unwrap());
        assert!(trunk_id("cf", "…", "1").is_err() && trunk_id("cf", "a", "--").is_err());
        assert!(check_namespace("cf").is_ok());
        for bad in ["", "CF", "c_f", "1a", "abcdefghijklm", "c;f", "cft", "t"] {
            assert!(check_namespace(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn different_trunks_have_different_ids(pairs in prop::collection::vec(("[a-c.-]{1,4}[a-c]", "[a-bA1]{1,3}"), 40)) {
            let mut seen: BTreeMap<String, (String, String)> = BTreeMap::new();
            for (host, ext) in pairs {
                let Ok(id) = trunk_id("cf", &host, &ext) else { continue };
                prop_assert!(id.len() <= MAX_ID);
                let was = seen.entry(id).or_insert_with(|| (host.clone(), ext.clone()));
                prop_assert_eq!(was, &(host, ext));
            }
        }
    }
}
