//! Tables: country, number as written, E.164 or nothing.

use super::*;

fn of(code: &str, dial_prefixes: &[&str]) -> Numbering {
    let (plan, international) = Plan::built_in(code).expect("a country that is built in");
    Numbering {
        off: false,
        country: Some(plan),
        international: vec![international.to_owned()],
        dial_prefixes: dial_prefixes.iter().map(|&p| p.to_owned()).collect(),
    }
}

#[test]
fn numbers_as_lines_write_them() {
    let table: &[(&str, &str, Option<&str>)] = &[
        // United States and Canada
        ("1", "2125550123", Some("+12125550123")),
        ("1", "12125550123", Some("+12125550123")),
        ("1", "+12125550123", Some("+12125550123")),
        ("1", "1-888-555-0123", Some("+18885550123")),
        ("1", "(888) 555-0123", Some("+18885550123")),
        ("1", "18005550199", Some("+18005550199")),
        ("1", "9055551234", Some("+19055551234")),
        ("1", "011442079460000", Some("+442079460000")),
        ("1", "5551234", None),
        ("1", "911", None),
        ("1", "411", None),
        ("1", "988", None),
        ("1", "40404", None),
        ("1", "0125550123", None),
        ("1", "2121550123", None),
        ("1", "2115550123", None),
        ("1", "+1911", None),
        ("1", "919876543210", None),
        // India
        ("91", "919876543210", Some("+919876543210")),
        ("91", "9876543210", Some("+919876543210")),
        ("91", "09876543210", Some("+919876543210")),
        ("91", "9198765432", Some("+919198765432")),
        ("91", "01123456789", Some("+911123456789")),
        ("91", "0014155550123", Some("+14155550123")),
        ("91", "112", None),
        ("91", "23456789", None),
        // Italy: the zero belongs to the number
        ("39", "0612345678", Some("+390612345678")),
        ("39", "+390612345678", Some("+390612345678")),
        ("39", "00390612345678", Some("+390612345678")),
        ("39", "390612345678", Some("+390612345678")),
        ("39", "3331234567", Some("+393331234567")),
        ("39", "0044207946000", Some("+44207946000")),
        ("39", "112", None),
        ("39", "4060", None),
        // Czech Republic
        ("420", "224000100", Some("+420224000100")),
        ("420", "420224000100", Some("+420224000100")),
        ("420", "00420224000100", Some("+420224000100")),
        ("420", "+420 224 000 100", Some("+420224000100")),
        ("420", "0049301234567", Some("+49301234567")),
        ("420", "112", None),
        ("420", "116111", None),
        ("420", "14122", None),
        ("420", "124000100", None),
        // United Kingdom
        ("44", "02079460000", Some("+442079460000")),
        ("44", "2079460000", Some("+442079460000")),
        ("44", "01142345678", Some("+441142345678")),
        ("44", "07700900123", Some("+447700900123")),
        ("44", "08001111", Some("+448001111")),
        ("44", "447700900123", Some("+447700900123")),
        ("44", "+4402079460000", None),
        ("44", "79460000", None),
        ("44", "999", None),
        ("44", "0012125550123", Some("+12125550123")),
        // Germany: without the prefix a number is a local one
        ("49", "0301234567", Some("+49301234567")),
        ("49", "004930123456", Some("+4930123456")),
        ("49", "+49 (30) 1234567", Some("+49301234567")),
        ("49", "+49 030 1234567", None),
        ("49", "1234567", None),
        ("49", "49123456", None),
        ("49", "4930123456", Some("+4930123456")),
        ("49", "015112345678", Some("+4915112345678")),
        ("49", "0041446681800", Some("+41446681800")),
        ("49", "110", None),
        ("49", "112", None),
        ("49", "116117", None),
        // others
        ("33", "0123456789", Some("+33123456789")),
        ("33", "00441234567890", Some("+441234567890")),
        ("34", "911234567", Some("+34911234567")),
        ("7", "84951234567", Some("+74951234567")),
        ("7", "8102125550123", Some("+2125550123")),
        ("61", "0412345678", Some("+61412345678")),
        ("61", "001112125550123", Some("+12125550123")),
        ("81", "0312345678", Some("+81312345678")),
        ("81", "01012125550123", Some("+12125550123")),
        ("36", "0612345678", Some("+3612345678")),
        ("55", "5511987654321", Some("+5511987654321")),
        ("55", "55987654321", Some("+5555987654321")),
        // nobody
        ("1", "", None),
        ("1", "anonymous", None),
        ("1", "Anonymous", None),
        ("1", "Restricted", None),
        ("1", "unavailable", None),
        ("1", "s", None),
        ("1", "*97", None),
        ("1", "+", None),
        ("1", "++12125550123", None),
        ("1", "1212555012३", None),
        ("1", "+0001234567", None),
        ("1", "+21012345678", None),
        ("1", "+1234567890123456789", None),
        ("1", "0110012345678", None),
    ];
    for (code, number, expected) in table {
        assert_eq!(of(code, &[]).plain(number).as_deref(), *expected, "{number} in +{code}");
        // a number that nobody dialled is what it is whatever is dialled for an outside line
        assert_eq!(of(code, &["9", "0", "*67"]).plain(number).as_deref(), *expected, "{number} in +{code}");
    }
}

#[test]
fn numbers_as_people_dial_them() {
    let table: &[(&str, &[&str], &str, Option<&str>)] = &[
        // Toronto is 905: the 9 is the number's own
        ("1", &["9"], "9055551234", Some("+19055551234")),
        ("1", &["9"], "99055551234", Some("+19055551234")),
        ("1", &["9"], "919055551234", Some("+19055551234")),
        ("1", &["9"], "919876543210", Some("+19876543210")),
        ("1", &["9"], "9011919876543210", Some("+919876543210")),
        ("1", &["9"], "19055551234", Some("+19055551234")),
        ("1", &["9"], "9911", None),
        ("1", &["9"], "911", None),
        ("1", &["9"], "95551234", None),
        ("1", &["9", "*67"], "*679055551234", Some("+19055551234")),
        ("1", &["9", "*67"], "*6799055551234", Some("+19055551234")),
        ("1", &["9", "*67"], "9*6719055551234", Some("+19055551234")),
        ("1", &["*67"], "*82", None),
        ("1", &[], "*6719055551234", None),
        ("1", &["9"], "9+442079460000", Some("+442079460000")),
        // India with 9 for a line
        ("91", &["9"], "9876543210", Some("+919876543210")),
        ("91", &["9"], "919876543210", Some("+919876543210")),
        ("91", &["9"], "909876543210", Some("+919876543210")),
        // Germany with 0 for a line: 0 030 is not Greece
        ("49", &["0"], "00301234567", Some("+49301234567")),
        ("49", &["0"], "0301234567", Some("+49301234567")),
        ("49", &["0"], "00041446681800", Some("+41446681800")),
        ("49", &["0"], "0110", None),
        ("49", &["0"], "110", None),
        // Czech Republic with 9, and a second line with 88
        ("420", &["9", "88"], "9602123456", Some("+420602123456")),
        ("420", &["9", "88"], "88602123456", Some("+420602123456")),
        ("420", &["9", "88"], "9420602123456", Some("+420602123456")),
        ("420", &["9", "88"], "906123456", Some("+420906123456")),
        ("420", &["9", "88"], "9112", None),
        // Italy
        ("39", &["9"], "90612345678", Some("+390612345678")),
        ("44", &["9"], "901142345678", Some("+441142345678")),
        ("44", &["9"], "9999", None),
    ];
    for (code, prefixes, number, expected) in table {
        assert_eq!(of(code, prefixes).dialled(number).as_deref(), *expected, "{number} in +{code}, {prefixes:?}");
    }
}

#[test]
fn without_a_country_only_a_plus_tells() {
    let numbering = Numbering::default();
    assert_eq!(numbering.plain("+442079460000").as_deref(), Some("+442079460000"));
    for number in ["12125550123", "00442079460000", "011442079460000", "2079460000"] {
        assert_eq!(numbering.plain(number), None, "{number}");
    }
    assert_eq!(Numbering { off: true, ..of("1", &[]) }.plain("+12125550123"), None);
}

#[test]
fn whatever_is_written_is_read_or_left() {
    let numbering = of("1", &["9", "*67", ""]);
    for number in ["é", "+é", "9é", "١٢٣", "\u{0}", "+1é2125550123", &"9".repeat(10_000), "9*679*679*67"] {
        assert_eq!(numbering.dialled(number), None, "{number:.20}");
        assert_eq!(numbering.plain(number), None, "{number:.20}");
    }
}

#[test]
fn the_built_in_plans_agree_with_themselves() {
    for (code, prefix, (min, max), (bare_min, bare_max), international) in PLANS {
        assert_eq!(country_code(&format!("{code}2345678")), Some(*code), "+{code}");
        assert!(min <= max && bare_min <= bare_max && bare_max <= max, "+{code}");
        assert!(code.len() + max <= DIGITS_MAX + 1, "+{code}");
        assert!(prefix.bytes().chain(international.bytes()).all(|b| b.is_ascii_digit()), "+{code}");
        // without a prefix every number is complete
        assert!(!prefix.is_empty() || (bare_min, bare_max) == (min, max), "+{code}");
    }
}

#[test]
fn a_foreign_caller_without_a_plus_is_one_where_nobody_else_can_be_meant() {
    let table: &[(&str, &str, Option<&str>)] = &[
        ("1", "442079460000", Some("+442079460000")),
        ("1", "919876543210", Some("+919876543210")),
        ("1", "33123456789", Some("+33123456789")),
        ("1", "420224000100", Some("+420224000100")),
        // as before
        ("1", "12125550123", Some("+12125550123")),
        ("1", "2125550123", Some("+12125550123")),
        ("1", "011442079460000", Some("+442079460000")),
        // ten digits could be a number of the own country with a digit gone wrong
        ("1", "4521234567", None),
        // no such length, beginning or code
        ("1", "44207946000000", None),
        ("1", "440207946000", None),
        ("1", "19995550123456", None),
        ("1", "21012345678", None),
        ("1", "99912345678", None),
        ("1", "*44207946000", None),
        ("44", "12125550123", Some("+12125550123")),
        ("44", "12121550123", None),
        ("44", "447700900123", Some("+447700900123")),
        ("44", "07700900123", Some("+447700900123")),
        ("44", "4915112345678", Some("+4915112345678")),
        ("420", "421905123456", Some("+421905123456")),
        ("420", "12125550123", Some("+12125550123")),
        ("420", "4930123456", None),
        ("49", "12125550123", Some("+12125550123")),
        ("49", "442079460000", Some("+442079460000")),
        ("49", "41446681800", Some("+41446681800")),
        ("49", "30123456", None),
        ("39", "442079460000", Some("+442079460000")),
        ("7", "84951234567", Some("+74951234567")),
        ("91", "14155550123", Some("+14155550123")),
    ];
    for (code, number, expected) in table {
        assert_eq!(of(code, &[]).from_line(number).as_deref(), *expected, "{number} in +{code}");
        // dialled, or sent to a trunk, it may have a prefix in front that nobody told of
        let plain = of(code, &[]).plain(number);
        assert!(plain.is_none() || plain.as_deref() == *expected, "{number} in +{code}");
    }
    assert_eq!(Numbering::default().from_line("442079460000"), None);
    assert_eq!(Numbering { off: true, ..of("1", &[]) }.from_line("442079460000"), None);
}
