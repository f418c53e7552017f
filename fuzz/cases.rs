//! What is fuzzed: each case takes any bytes, and panics if weir breaks a rule with them. The fuzz targets of this folder and
//! the smoke run in `tests/fuzz.rs` share them.

use std::path::Path;
use weir::clock::Wall;
use weir::config::{Format, UserFiles, load_text, units};
use weir::proxy::fuzzing;
use weir::rollout::criterion;
use weir::rollout::force;
use weir::snapshot::Secret;

/// A case by its name.
pub type Case = (&'static str, fn(&[u8]));

/// Every case.
pub const CASES: &[Case] = &[("config", config), ("criterion", criterion), ("unit", unit), ("answer", answer)];

/// A config in any of its forms, and its overrides: loaded or refused, and what is loaded loads again from what is in force.
pub fn config(bytes: &[u8]) {
    let Some((form, bytes)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let format = match form % 3 {
        0 => Format::Toml,
        1 => Format::Yaml,
        _ => Format::Json,
    };
    let folder = Path::new("/nonexistent");
    match load_text("fuzzed", text, format, folder, &[], &mut UserFiles::default()) {
        Ok(loaded) => {
            let effective = loaded.effective.to_string();
            let again = weir::config::load_effective("effective", &effective, folder, &mut UserFiles::default());
            assert!(again.is_ok(), "the config in force does not load: {effective}\n{:?}", again.err());
        }
        Err(problems) => assert!(!problems.is_empty(), "refused without a word"),
    }
    let variables =
        [("WEIR__ROLLOUTS__CHAT__WEIGHT".to_owned(), text.to_owned()), (format!("WEIR__{text}"), "1".to_owned())];
    let _ = load_text("fuzzed", "", Format::Toml, folder, &variables, &mut UserFiles::default());
}

/// A criterion and the units of numbers: what is printed reads as the same.
pub fn criterion(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match criterion::parse(text) {
        Ok(read) => {
            let printed = read.to_string();
            let again = criterion::parse(&printed);
            assert_eq!(
                again.as_ref().ok().map(ToString::to_string),
                Some(printed.clone()),
                "`{text}` prints as `{printed}`"
            );
        }
        Err(error) => assert!(text.is_char_boundary(error.at.min(text.len())), "`{text}`: no place: {error}"),
    }
    if let Ok(share) = units::parse_share(text) {
        assert_eq!(units::parse_share(&units::print_share(share)).ok(), Some(share), "`{text}`");
    }
    if let Ok(span) = units::parse_span(text) {
        assert_eq!(units::parse_span(&units::print_span(span)).ok(), Some(span), "`{text}`");
    }
    if let Ok(size) = units::parse_size(text) {
        assert_eq!(units::parse_size(&units::print_size(size)).ok(), Some(size), "`{text}`");
    }
}

/// What a client says about who it is: cookies split into crumbs anywhere read alike, and no unsigned token is believed.
pub fn unit(bytes: &[u8]) {
    let secret = Secret(b"a secret of the fuzzer".to_vec().into());
    let now = Wall::default();
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // What no field may contain no reader will see.
    if !bytes.iter().any(u8::is_ascii_control) {
        let joined = fuzzing::cookie(&[bytes], "session");
        for (at, _) in text.match_indices(';').take(8) {
            let (before, after) = bytes.split_at(at);
            let crumbs = fuzzing::cookie(&[before, after.get(1..).unwrap_or_default()], "session");
            assert_eq!(crumbs, joined, "`{text}` in crumbs");
        }
    }
    let _ = fuzzing::addresses(text);
    let believed = fuzzing::jwt_claim(text, "sub", None, now);
    let signed = fuzzing::jwt_claim(text, "sub", Some(&secret), now);
    assert!(signed.is_none(), "a token that nobody signed: {believed:?}");
    assert_eq!(force::verify(&secret.0, text, now), None, "a token that nobody signed");
}

/// An upstream's bytes: the same answer however they arrive, and no field that concerns the connection alone.
pub fn answer(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let whole = fuzzing::answer(bytes, bytes.len());
    assert_eq!(fuzzing::answer(bytes, usize::from(*step)), whole, "in pieces of {step} bytes");
    for (name, _) in &whole.fields {
        assert!(!matches!(name.as_str(), "connection" | "transfer-encoding" | "keep-alive"), "{name} is passed on");
    }
    for name in &whole.trailers {
        assert!(!matches!(name.as_str(), "content-length" | "host" | "authorization"), "{name} is no trailer");
    }
    assert!(whole.body.len() <= bytes.len());
}
