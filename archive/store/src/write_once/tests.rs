use std::sync::Arc;

use super::*;
use crate::SharedStore;
use crate::hooked::{Hooked, Hooks};

fn body(text: &'static str) -> Body {
    Body::new(Bytes::from_static(text.as_bytes()))
}

#[derive(Debug, Default)]
struct Ignoring;

impl Hooks for Ignoring {}

/// A store in which another writer's object takes the place of each one that is put, or in which
/// an object disappears at once.
#[derive(Debug)]
enum Late {
    Other(&'static str),
    Lost,
}

#[async_trait]
impl Hooks for Late {
    async fn put(&self, store: &dyn ObjectStore, key: &str, body: Body) -> Result<(), StoreError> {
        match self {
            Late::Other(other) => store.put(key, Body::new(Bytes::from_static(other.as_bytes()))),
            Late::Lost if key == CONDITIONAL_PROBE => store.put(key, body),
            Late::Lost => return Ok(()),
        }
        .await
    }
}

#[tokio::test]
async fn objects_are_written_once_on_a_store_that_ignores_conditions() {
    let hooked = Hooked::<Ignoring>::default();
    let store: SharedStore = Arc::new(WriteOnce::new(hooked.clone()));
    assert!(store.ignores_conditions().await.unwrap());
    for naming in [Naming::Shared, Naming::Contested] {
        let key = format!("tail/{naming:?}");
        store.put(&key, body("one").named(naming)).await.unwrap();
        let again = store.put(&key, body("two").named(naming)).await;
        assert!(matches!(again, Err(StoreError::Exists { .. })));
        assert_eq!(store.get(&key, None).await.unwrap(), "one");
    }
    store.put_again("tail/Shared", body("one")).await.unwrap();
    assert_eq!(store.get("tail/Shared", None).await.unwrap(), "one");
}

#[tokio::test]
async fn a_contested_key_is_its_last_writers() {
    let late = |hooks| -> SharedStore { Arc::new(WriteOnce::new(Hooked::new(hooks))) };
    let key = "writers/1";
    let put = async |store: SharedStore, naming| store.put(key, body("one").named(naming)).await;
    let others = put(late(Late::Other("two")), Naming::Contested).await;
    assert!(matches!(others, Err(StoreError::Exists { .. })));
    put(late(Late::Other("one")), Naming::Contested)
        .await
        .unwrap();
    put(late(Late::Other("two")), Naming::Shared).await.unwrap();
    let lost = put(late(Late::Lost), Naming::Contested).await;
    assert!(lost.unwrap_err().is_transient());
}
