//! Texts that nobody wrote in good faith, or that are no texts.

use super::*;
use proptest::prelude::*;

const FORMATS: [Format; 3] = [Format::Toml, Format::Yaml, Format::Json];

/// The problems of a file with this content.
fn problems_of(content: &[u8], extension: &str) -> Vec<Problem> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("weir.{extension}"));
    std::fs::write(&path, content).unwrap();
    load(&path, &[], &mut UserFiles::default()).unwrap_err()
}

fn only(problems: &[Problem]) -> &str {
    assert_eq!(problems.len(), 1, "{}", lines(problems));
    &problems[0].message
}

#[test]
fn an_empty_file_is_one_clear_report() {
    for extension in ["toml", "yaml", "json"] {
        for content in ["", "  \n\t\n", "\u{feff}"] {
            assert_eq!(only(&problems_of(content.as_bytes(), extension)), "is empty: it sets nothing");
        }
    }
    assert_eq!(only(&problems_of(b"# only a comment\n", "toml")), "is empty: it sets nothing");
    assert_eq!(only(&problems_of(b"# only a comment\n", "yaml")), "is empty: it sets nothing");
    assert_eq!(only(&problems_of(b"{}", "json")), "is empty: it sets nothing");
    assert_eq!(only(&problems_of(b"null", "json")), "is empty: it sets nothing");
    assert!(only(&problems_of(b"[1, 2]", "json")).starts_with("expected keys with values, found a list"));
}

#[test]
fn a_binary_file_is_one_clear_report_with_its_place() {
    let binary = [b"ok = 1\nx\0\x01".as_slice(), &[0xff, 0xfe]].concat();
    let problems = problems_of(&binary, "toml");
    assert_eq!(only(&problems), "is not a text file: byte 0x00 is not UTF-8 text");
    assert_eq!((problems[0].line, problems[0].column), (Some(2), Some(2)));
    assert_eq!(only(&problems_of(b"a: \xc3\x28", "yaml")), "is not a text file: byte 0xc3 is not UTF-8 text");
    assert_eq!(only(&problems_of(&[0xff, 0xfe, b'a', 0], "toml")), "is UTF-16 text: save it as UTF-8");
}

#[test]
fn a_huge_file_is_one_clear_report() {
    let huge = vec![b'#'; 10 * 1024 * 1024];
    assert_eq!(only(&problems_of(&huge, "toml")), "is larger than 4 MiB: this is no config of weir");
}

#[test]
fn what_cannot_be_read_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &Path| load(path, &[], &mut UserFiles::default()).unwrap_err();
    assert!(only(&load(&folder.path().join("none.toml"))).starts_with("cannot be read: "));
    assert_eq!(only(&load(folder.path())), "is a folder, not a config file");
    assert!(only(&load(&folder.path().join("a.ini"))).contains(".toml, .yaml, .yml or .json"));
}

#[test]
fn deep_nesting_is_refused_before_it_meets_the_stack() {
    let nested = |open: &str, close: &str| format!("a{}", open.repeat(200_000) + &close.repeat(200_000));
    let toml = [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{b=".repeat(100_000)),
        format!("a = {}1{}", "{a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p=".repeat(30), "}".repeat(30)),
        format!("a = {}1{}", format!("{{{}=", ["b"; 79].join(".")).repeat(79), "}".repeat(79)),
        format!("a = {}1{}", format!("{{{}=]", ["b"; 16].join(".")).repeat(79), "}".repeat(79)),
        format!("a = \"\\\n{}", format!("{{{}=", ["b"; 79].join(".")).repeat(79)),
        format!("[{}]\n", ["a"; 5000].join(".")),
        format!("{} = 1\n", ["a"; 5000].join(".")),
        format!("a = '''\n{}'''\nb = \"\\\"[\"\n{}", "[\n", "c = [".repeat(50_000)),
    ];
    for text in toml {
        assert!(load_toml(&text).is_err());
    }
    let yaml = ["- ".repeat(100_000), "[".repeat(100_000), "{a: ".repeat(100_000), "? ".repeat(100_000)];
    for text in yaml {
        assert!(load_text("f", &text, Format::Yaml, Path::new("/"), &[], &mut UserFiles::default()).is_err());
    }
    for text in [nested("[", "]"), nested("{\"a\":", "}"), "[".repeat(1_000_000)] {
        let text = text.strip_prefix('a').unwrap_or(&text).to_owned();
        let problems = load_text("f", &text, Format::Json, Path::new("/"), &[], &mut UserFiles::default()).unwrap_err();
        assert_eq!(only(&problems), "nested deeper than 32 levels");
    }
    let value = "[".repeat(100_000);
    assert!(load_with(BASE, &[("WEIR__TRUSTED_PROXIES", &value)]).is_err());
}

#[test]
fn yaml_aliases_cannot_be_made_to_explode() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    let problems = load_text("f", &text, Format::Yaml, Path::new("/"), &[], &mut UserFiles::default()).unwrap_err();
    assert_eq!(only(&problems), "anchors and aliases copy more than 100000 values");
}

#[test]
fn a_large_file_of_nonsense_is_still_answered() {
    let json = |key: &str, item: &str| format!("{{\"{key}\":[{}]}}", vec![item; 1_000_000 / item.len()].join(","));
    let keys = |end: &str| (0..50_000).map(|index| format!("listener{index}{end}")).collect::<String>();
    for (text, format) in [
        (json("routes", "{\"upstream\":\"a\"}"), Format::Json),
        (json("listeners", "{\"address\":\"127.0.0.1:1\"}"), Format::Json),
        (json("trusted_proxies", "\"x\""), Format::Json),
        (format!("{{{}\"a\":1}}", keys("\":1,").replace("listener", "\"listener")), Format::Json),
        (keys(" = 1\n"), Format::Toml),
        (keys(": 1\n"), Format::Yaml),
        ("[[routes]]\nupstream = \"a\"\n".repeat(30_000), Format::Toml),
        (format!("listeners: [{}]", "a, ".repeat(150_000)), Format::Yaml),
        ("[rollouts.chat.canary.set_headers]\n".to_owned() + &keys(" = \"1\"\n"), Format::Toml),
        (format!("a = {}", "[".repeat(31) + &"[],".repeat(300_000)), Format::Toml),
        ("= \n".repeat(200_000), Format::Toml),
    ] {
        let problems = load_text("f", &text, format, Path::new("/"), &[], &mut UserFiles::default()).unwrap_err();
        assert!(!problems.is_empty() && problems.len() <= 201);
    }
}

#[test]
fn thousands_of_problems_are_cut_short() {
    let text: String = (0..5000).map(|index| format!("nonsense_{index} = 1\n")).collect();
    let problems = load_toml(&text).unwrap_err();
    assert_eq!(problems.len(), 201);
    assert!(problems.last().unwrap().message.starts_with("and 48"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_never_panic_the_loader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(text) = parse::text_of(&bytes, "f") {
            for format in FORMATS {
                let _ = load_text("f", text, format, Path::new("/nowhere"), &[], &mut UserFiles::default());
            }
        }
    }

    #[test]
    fn text_that_looks_like_a_config_never_panics_the_loader(
        text in r#"([ -~\n\t]|[\[\]{}=:,.#"'&*!|>?%@\\-]|\[\[listeners\]\]\n|rollouts|weight|"10%"|é|\u{2028}){0,60}"#,
    ) {
        for format in FORMATS {
            let _ = load_text("f", &text, format, Path::new("/nowhere"), &[], &mut UserFiles::default());
        }
        let _ = load_with(BASE, &[("WEIR__ROLLOUTS__CHAT__WEIGHT", &text), (&format!("WEIR__{text}"), "1")]);
    }

    #[test]
    fn a_config_with_a_byte_changed_never_panics_the_loader(at in 0_usize..4000, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = include_bytes!("../../../tests/fixtures/config/sample-everything.toml").to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at + 1);
        }
        if let Ok(text) = parse::text_of(&bytes, "f") {
            let _ = load_text("f", text, Format::Toml, Path::new("/nowhere"), &[], &mut UserFiles::default());
        }
    }
}
