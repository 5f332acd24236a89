use proptest::prelude::*;

use super::*;

fn instant(text: &str) -> Result<String, InstantError> {
    parse_instant(text).map(format_instant)
}

#[test]
fn instants_are_read_as_people_write_them() {
    for text in [
        "2026-11-21 14:03:00.123456+01",
        "2026-11-21 14:03:00.123456 +01",
        "2026-11-21T14:03:00.123456+01:00",
        "2026-11-21T13:03:00.123456Z",
        "2026-11-21 13:03:00.123456 UTC",
        "2026-11-21 18:33:00.123456+0530",
        "2026-11-21 05:03:00.123456-08",
        "2026-11-21 14:03:00.123456 Europe/Berlin",
        "2026-11-21T14:03:00.123456[Europe/Berlin]",
    ] {
        assert_eq!(
            instant(text).as_deref(),
            Ok("2026-11-21 13:03:00.123456+00"),
            "{text}"
        );
    }
    assert_eq!(
        instant("2026-11-21 13:03Z").as_deref(),
        Ok("2026-11-21 13:03:00+00")
    );
    assert_eq!(
        instant("2026-11-21 13:03:00.5Z").as_deref(),
        Ok("2026-11-21 13:03:00.5+00")
    );
}

#[test]
fn what_could_mean_several_instants_is_refused() {
    let Err(InstantError::NoZone { utc, .. }) = instant("2026-11-21 14:03:00") else {
        panic!("a zone was made up");
    };
    assert_eq!(utc, "2026-11-21 14:03:00+00");
    // Clocks in Berlin show 02:30 twice that night, and not at all in spring.
    for text in [
        "2026-10-25 02:30:00 Europe/Berlin",
        "2026-03-29 02:30:00 Europe/Berlin",
    ] {
        assert!(
            matches!(instant(text), Err(InstantError::Ambiguous(_))),
            "{text}"
        );
    }
    assert!(matches!(
        instant("2026-11-21 14:03:00.1234567Z"),
        Err(InstantError::TooFine(_))
    ));
    for text in ["2026-12-31 23:59:60Z", "2026-12-31T23:59:60.5+01:00"] {
        assert!(
            matches!(instant(text), Err(InstantError::LeapSecond(_))),
            "{text}"
        );
    }
    for text in [
        "",
        "now",
        "yesterday",
        "2026-11-21",
        "2026-11-21Z",
        "14:03:00Z",
        "2026-13-01 00:00:00Z",
        "2026-11-21 14:03:00 CET",
        "2026-11-21 14:03:00+1",
        "2026-11-21 14:03:00+99",
        "2026-11-21 14:03:00 Mars/Olympus",
    ] {
        assert!(
            matches!(instant(text), Err(InstantError::Malformed(_))),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn instants_round_trip(micros in -30_000_000_000_000_000i64..250_000_000_000_000_000) {
        let instant = Timestamp::from_microsecond(micros).expect("in range");
        prop_assert_eq!(parse_instant(&format_instant(instant)), Ok(instant));
    }

    #[test]
    fn parsing_never_panics(text in "\\PC{0,40}") {
        let _ = parse_instant(&text);
        let _ = text.parse::<TimelineChoice>();
        let _ = parse_xid(&text);
    }
}

#[test]
fn transaction_ids_lose_their_epoch() {
    assert_eq!(parse_xid("12345"), Ok(12345));
    assert_eq!(parse_xid("4294979641"), Ok(12345));
    for text in ["", "-1", "0", "2", "4294967296", "x"] {
        assert!(parse_xid(text).is_err(), "{text}");
    }
}

#[test]
fn restore_points_are_named_as_postgresql_names_them() {
    for name in [
        "before deploy",
        "a\tb",
        "it's",
        "vor Ümzug",
        &"x".repeat(63),
    ] {
        assert_eq!(parse_name(name).as_deref(), Ok(name));
    }
    for name in ["", &"x".repeat(64)] {
        assert_eq!(parse_name(name), Err(TargetError::Name));
    }
    for name in ["a\nb", "a\rb", "\u{1b}[2J"] {
        let refused = parse_name(name).expect_err("refused");
        assert_eq!(refused, TargetError::Control(name.to_owned()));
        assert!(refused.to_string().contains("--target-lsn"), "{refused}");
    }
}

#[test]
fn timelines_are_chosen_by_word_or_number() {
    assert_eq!("latest".parse(), Ok(TimelineChoice::Latest));
    assert_eq!(
        "7".parse(),
        Ok(TimelineChoice::Id(TimelineId::new(7).expect("not zero")))
    );
    assert!("0".parse::<TimelineChoice>().is_err());
}
