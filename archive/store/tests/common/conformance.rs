//! What every store has to do alike.

use bytes::Bytes;
use walvault_store::{Body, ObjectStore, StoreError, list_all};

/// Holds an empty store to the contract of [`ObjectStore`], and leaves it empty, but for what is
/// under `probe/`.
pub async fn conforms(store: &dyn ObjectStore) {
    writes_once_and_reads_back(store).await;
    reads_ranges(store).await;
    lists_in_order(store).await;
    reports_what_is_missing(store).await;
    takes_empty_and_large_objects(store).await;
    refuses_what_is_no_key(store).await;
    one_of_many_writers_wins(store).await;
    removes_many(store).await;
    let left = list_all(store, "").await.unwrap();
    let left: Vec<_> = left
        .iter()
        .filter(|object| !object.key.starts_with("probe/"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Body::new(bytes.into())
}

async fn writes_once_and_reads_back(store: &dyn ObjectStore) {
    let before = jiff::Timestamp::now();
    store
        .put("wal/00000001/first", body("first"))
        .await
        .unwrap();
    for again in ["first", "other"] {
        let error = store
            .put("wal/00000001/first", body(again))
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Exists { .. }), "{error}");
        assert!(error.to_string().contains("wal/00000001/first"), "{error}");
    }
    assert_eq!(
        store.get("wal/00000001/first", None).await.unwrap(),
        "first"
    );
    let meta = store.head("wal/00000001/first").await.unwrap().unwrap();
    assert_eq!((meta.key.as_str(), meta.size), ("wal/00000001/first", 5));
    let age = meta.modified.duration_since(before).as_secs().abs();
    assert!(age < 60, "{:?} against {before:?}", meta.modified);

    store.delete("wal/00000001/first").await.unwrap();
    assert_eq!(store.head("wal/00000001/first").await.unwrap(), None);
    store
        .put("wal/00000001/first", body("second"))
        .await
        .unwrap();
    assert_eq!(
        store.get("wal/00000001/first", None).await.unwrap(),
        "second"
    );
    store.delete("wal/00000001/first").await.unwrap();
}

async fn reads_ranges(store: &dyn ObjectStore) {
    store.put("range", body("0123456789")).await.unwrap();
    for (range, expected) in [
        (0..10, "0123456789"),
        (0..1, "0"),
        (3..7, "3456"),
        (9..10, "9"),
        (5..1000, "56789"),
        (10..20, ""),
        (50..60, ""),
        (4..4, ""),
        (0..u64::MAX, "0123456789"),
    ] {
        let bytes = store.get("range", Some(range.clone())).await.unwrap();
        assert_eq!(bytes, expected, "{range:?}");
    }
    for range in [0..1, 4..4] {
        let error = store.get("no-range", Some(range)).await.unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }
    store.delete("range").await.unwrap();
}

async fn lists_in_order(store: &dyn ObjectStore) {
    // In the order of their bytes: '-' and '.' come before '/'.
    let keys = ["a", "b-c", "b.history", "b/1", "b/2/3", "b0", "c/1"];
    for key in keys.iter().rev() {
        store.put(key, body(*key)).await.unwrap();
    }
    let list = async |prefix: &str| {
        let objects = list_all(store, prefix).await.unwrap();
        let ours = objects
            .into_iter()
            .filter(|object| !object.key.starts_with("probe/"));
        ours.map(|object| {
            assert_eq!(object.size, object.key.len() as u64);
            object.key
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(list("").await, keys);
    assert_eq!(list("b").await, ["b-c", "b.history", "b/1", "b/2/3", "b0"]);
    assert_eq!(list("b/").await, ["b/1", "b/2/3"]);
    assert_eq!(list("b/2/3").await, ["b/2/3"]);
    assert_eq!(list("nothing/").await, [""; 0]);
    for (prefix, after, first) in [
        ("", "b/1", Some("b/2/3")),
        ("b", "b.", Some("b.history")),
        ("b/", "a", Some("b/1")),
        ("b/", "b/2/3", None),
        ("b/", "c", None),
    ] {
        let page = store.list(prefix, Some(after)).await.unwrap();
        let found = page.objects.first().map(|object| object.key.as_str());
        assert_eq!(found, first, "{prefix} after {after}");
        assert_eq!(page.next, None);
    }
    for key in keys {
        store.delete(key).await.unwrap();
    }
}

async fn reports_what_is_missing(store: &dyn ObjectStore) {
    let error = store.get("missing/object", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("missing/object"), "{error}");
    assert_eq!(store.head("missing/object").await.unwrap(), None);
    store.delete("missing/object").await.unwrap();
    // A name that an object's key begins with is no object.
    store.put("folder/object", body("x")).await.unwrap();
    assert_eq!(store.head("folder").await.unwrap(), None);
    let error = store.get("folder", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    store.delete("folder/object").await.unwrap();
}

async fn takes_empty_and_large_objects(store: &dyn ObjectStore) {
    store.put("empty", body("")).await.unwrap();
    assert_eq!(store.get("empty", None).await.unwrap(), "");
    assert_eq!(store.get("empty", Some(0..5)).await.unwrap(), "");
    assert_eq!(store.head("empty").await.unwrap().unwrap().size, 0);
    store.delete("empty").await.unwrap();

    let large: Bytes = (0..5_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    store.put("large", body(large.clone())).await.unwrap();
    assert!(store.get("large", None).await.unwrap() == large);
    let part = store
        .get("large", Some(1_234_567..4_321_000))
        .await
        .unwrap();
    assert!(part == large.slice(1_234_567..4_321_000));
    store.delete("large").await.unwrap();
}

async fn refuses_what_is_no_key(store: &dyn ObjectStore) {
    for key in [
        "",
        "/absolute",
        "../outside",
        "a/../../outside",
        "a//b",
        "a/",
        "a/./b",
    ] {
        let refused = [
            store.put(key, body("x")).await.unwrap_err(),
            store.get(key, None).await.unwrap_err(),
            store.head(key).await.unwrap_err(),
            store.delete(key).await.unwrap_err(),
        ];
        for error in refused {
            assert!(
                matches!(error, StoreError::Refused { .. }),
                "{key}: {error}"
            );
        }
    }
    assert!(store.list("../", None).await.is_err());
}

/// Only where the store enforces it; elsewhere the race is documented.
async fn one_of_many_writers_wins(store: &dyn ObjectStore) {
    if store.ignores_conditions().await.unwrap() {
        return;
    }
    let contents: Vec<String> = (0..8).map(|writer| format!("writer {writer}")).collect();
    let puts = contents
        .iter()
        .map(|text| store.put("contested", body(text.clone())));
    let outcomes = futures_util::future::join_all(puts).await;
    let winners: Vec<_> = (0..8).filter(|writer| outcomes[*writer].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let stored = store.get("contested", None).await.unwrap();
    assert_eq!(stored, contents[winners[0]]);
    store.delete("contested").await.unwrap();
}

async fn removes_many(store: &dyn ObjectStore) {
    let name = |number: u32| format!("tail/{number:04}");
    for number in 0..40 {
        store.put(&name(number), body("x")).await.unwrap();
    }
    // Those after the tenth, and some that were never there.
    let keys: Vec<String> = (10..50).map(name).collect();
    store.delete_many(&keys).await.unwrap();
    let left = list_all(store, "tail/").await.unwrap();
    let left: Vec<String> = left.into_iter().map(|object| object.key).collect();
    assert_eq!(left, (0..10).map(name).collect::<Vec<_>>());
    store.delete_many(&left).await.unwrap();
    store.delete_many(&[]).await.unwrap();
}
