//! What numbers, endpoints and contexts look like: trunk or phone, extension or outside number.

use super::Rules;
use super::ids::peer_of;
use crate::call::PartyKind;

/// Glob match with `*` and `?`, without regard to case.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < t.len() {
        if i < p.len() && p[i] == b'*' {
            star = Some((i, j));
            i += 1;
        } else if i < p.len() && (p[i] == b'?' || p[i].eq_ignore_ascii_case(&t[j])) {
            i += 1;
            j += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (i, j) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    p[i..].iter().all(|&c| c == b'*')
}

/// A trunk by the configured patterns, or by the context its calls enter through.
pub(super) fn is_trunk(rules: &Rules, endpoint: &str, context: &str) -> bool {
    is_trunk_endpoint(rules, endpoint) || rules.inbound_contexts.iter().any(|c| glob(c, context))
}

pub(super) fn is_trunk_endpoint(rules: &Rules, endpoint: &str) -> bool {
    rules.trunks.iter().any(|p| glob(p, if p.contains('/') { endpoint } else { peer_of(endpoint) }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberShape {
    Extension,
    Outside,
    /// Feature codes, names, nothing.
    Other,
}

pub(super) fn number(rules: &Rules, number: &str) -> NumberShape {
    if let Some(rest) = number.strip_prefix('+') {
        return if is_digits(rest) { NumberShape::Outside } else { NumberShape::Other };
    }
    match number.len() {
        _ if !is_digits(number) => NumberShape::Other,
        n if n > rules.extension_len.1 => NumberShape::Outside,
        n if n >= rules.extension_len.0 => NumberShape::Extension,
        _ => NumberShape::Other,
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// What a caller or callee behind an endpoint is. `None` when nothing tells.
pub(super) fn party_kind(rules: &Rules, trunk: bool, endpoint: &str, num: &str) -> Option<PartyKind> {
    kind_by(rules, trunk, endpoint, extension_of(rules, endpoint).is_some(), num)
}

/// The same, where it is known whether the endpoint's name contains an extension.
pub(super) fn kind_by(rules: &Rules, trunk: bool, endpoint: &str, extension: bool, num: &str) -> Option<PartyKind> {
    if trunk {
        return Some(PartyKind::External);
    }
    if extension || number(rules, num) == NumberShape::Extension {
        return Some(PartyKind::Extension);
    }
    match number(rules, num) {
        // where trunks are configured, whatever is none is a phone
        NumberShape::Outside if rules.trunks.is_empty() => Some(PartyKind::External),
        _ if endpoint.is_empty() && num.is_empty() => None,
        _ => Some(PartyKind::Extension),
    }
}

/// The extension an endpoint's name contains: `1001` of `PJSIP/1001-tenantA`.
pub(super) fn extension_of<'a>(rules: &Rules, endpoint: &'a str) -> Option<&'a str> {
    let peer = peer_of(endpoint);
    let peer = peer.split_once('@').map_or(peer, |(user, _)| user);
    peer.split(['-', '_']).find(|part| number(rules, part) == NumberShape::Extension)
}

/// An extension that a person or trunk can dial; `s`, `h`, `i`, `t` and the dialplan's inner names are none.
pub(super) fn is_dialled_number(exten: &str) -> bool {
    let rest = exten.strip_prefix('+').unwrap_or(exten);
    !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_without_case() {
        assert!(glob("PJSIP/trunk-*", "pjsip/TRUNK-acme"));
        assert!(glob("*a*b*c", "xxaxxbxxc"));
        assert!(!glob("*a*b*c", "xxaxxbxx"));
        assert!(glob("from-d?d*", "from-did-direct"));
        assert!(glob("*", ""));
        assert!(!glob("", "x"));
    }

    #[test]
    fn endpoints_are_trunks_with_or_without_technology() {
        let rules = Rules { trunks: vec!["trunk-*".into(), "SIP/out".into()], ..Rules::default() };
        assert!(is_trunk(&rules, "PJSIP/trunk-a", "x"));
        assert!(is_trunk(&rules, "SIP/out", "x"));
        assert!(!is_trunk(&rules, "PJSIP/out", "x"));
        assert!(is_trunk(&rules, "PJSIP/other", "from-trunk-sip-x"));
        assert_eq!(extension_of(&rules, "PJSIP/1001-tenantA"), Some("1001"));
        assert_eq!(extension_of(&rules, "PJSIP/trunk-acme"), None);
    }
}
