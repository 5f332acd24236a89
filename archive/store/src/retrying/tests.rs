use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::hooked::{Hooked, Hooks};

const URL: &str = "memory:";

/// What the next call meets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Nothing happens and the call fails.
    Down,
    /// The call happens and its answer is lost.
    AnswerLost,
    /// Somebody else's bytes are stored, and the call fails.
    Raced,
}

/// Puts meet the faults in turn, then work.
#[derive(Debug, Default)]
struct Faulty {
    puts: Mutex<VecDeque<Fault>>,
    gets_down: Mutex<u32>,
    reads_refused: bool,
}

impl Faulty {
    fn new(puts: &[Fault]) -> Faulty {
        Faulty {
            puts: Mutex::new(puts.iter().copied().collect()),
            ..Faulty::default()
        }
    }

    fn down(&self, action: &'static str, key: &str) -> StoreError {
        StoreError::unavailable(URL, action, key, "connection reset")
    }

    fn denied<T>(&self, action: &'static str, key: &str) -> Result<T, StoreError> {
        Err(StoreError::refused(
            URL,
            action,
            key,
            "access denied",
            "grant s3:GetObject",
        ))
    }
}

#[async_trait]
impl Hooks for Faulty {
    async fn asked(
        &self,
        _store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        if self.reads_refused && matches!(operation, Operation::Get | Operation::Head) {
            return self.denied(operation.name(), key);
        }
        let mut down = self.gets_down.lock().unwrap();
        if operation == Operation::Get && *down > 0 {
            *down -= 1;
            return Err(self.down("get", key));
        }
        Ok(())
    }

    async fn put(&self, store: &dyn ObjectStore, key: &str, body: Body) -> Result<(), StoreError> {
        let fault = self.puts.lock().unwrap().pop_front();
        match fault {
            None => return store.put(key, body).await,
            Some(Fault::Down) => {}
            Some(Fault::AnswerLost) => store.put(key, body).await?,
            Some(Fault::Raced) => {
                let other = Bytes::from(vec![b'!'; body.bytes.len()]);
                store.put(key, Body::new(other)).await?;
            }
        }
        Err(self.down("put", key))
    }
}

type Waited = Arc<Mutex<Vec<(u32, Duration)>>>;

fn retrying(faulty: Faulty, deadline: Option<Duration>) -> (Retrying, Waited) {
    retrying_store(Hooked::new(faulty), deadline)
}

fn retrying_store(store: Hooked<Faulty>, deadline: Option<Duration>) -> (Retrying, Waited) {
    let waited = Waited::default();
    let seen = Arc::clone(&waited);
    let policy = RetryPolicy {
        deadline,
        ..RetryPolicy::default()
    };
    let store = Retrying::new(Arc::new(store), policy).with_on_retry(Arc::new(
        move |error, attempt, delay| {
            assert!(error.is_transient());
            seen.lock().unwrap().push((attempt, delay));
        },
    ));
    (store, waited)
}

fn body() -> Body {
    Body::new(Bytes::from_static(b"bytes"))
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_is_waited_out_with_growing_waits() {
    let (store, waited) = retrying(Faulty::new(&[Fault::Down; 40]), None);
    let begun = Instant::now();
    store.put("k", body()).await.unwrap();
    let elapsed = begun.elapsed();
    assert_eq!(store.get("k", None).await.unwrap(), "bytes");
    let waited = waited.lock().unwrap();
    assert_eq!(waited.len(), 40);
    for (attempt, delay) in waited.iter() {
        assert!(
            *delay <= store.policy.ceiling(*attempt),
            "{attempt}: {delay:?}"
        );
    }
    let total: Duration = waited.iter().map(|(_, delay)| *delay).sum();
    // Tokio's timers are of a millisecond.
    assert!(elapsed >= total && elapsed < total + Duration::from_millis(80));
    assert!(total > Duration::from_secs(20), "{total:?}");
}

#[tokio::test(start_paused = true)]
async fn gives_up_with_the_last_error_at_the_deadline() {
    let faulty = Faulty {
        gets_down: Mutex::new(u32::MAX),
        ..Faulty::default()
    };
    let (store, waited) = retrying(faulty, Some(Duration::from_secs(60)));
    let begun = Instant::now();
    let error = store.get("k", None).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(begun.elapsed() <= Duration::from_secs(60) + Duration::from_millis(80));
    assert!(begun.elapsed() >= Duration::from_secs(49));
    assert!(waited.lock().unwrap().len() > 5);
}

#[tokio::test(start_paused = true)]
async fn what_will_not_change_is_not_retried() {
    let faulty = Faulty {
        reads_refused: true,
        ..Faulty::default()
    };
    let (store, waited) = retrying(faulty, None);
    let refused = store.get("k", None).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
    store.put("k", body()).await.unwrap();
    let exists = store.put("k", body()).await.unwrap_err();
    assert!(matches!(exists, StoreError::Exists { .. }), "{exists}");
    assert!(waited.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_answer_was_lost_succeeds_if_the_bytes_are_there() {
    let faulty = Faulty::new(&[Fault::Down, Fault::AnswerLost]);
    *faulty.gets_down.lock().unwrap() = 2;
    let (store, _) = retrying(faulty, None);
    store.put("k", body()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_answer_was_lost_fails_if_other_bytes_are_there() {
    let (store, _) = retrying(Faulty::new(&[Fault::Raced]), None);
    let error = store.put("k", body()).await.unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn where_reading_is_denied_the_listed_size_decides() {
    let lost = || Faulty {
        reads_refused: true,
        ..Faulty::new(&[Fault::AnswerLost])
    };
    let (store, _) = retrying(lost(), None);
    store.put("k", body()).await.unwrap();

    let faulty = Hooked::new(lost());
    let longer = Body::new(Bytes::from_static(b"longer bytes"));
    faulty.unhooked().put("k2", longer).await.unwrap();
    *faulty.puts.lock().unwrap() = VecDeque::from([Fault::Down]);
    let (store, _) = retrying_store(faulty, None);
    let error = store.put("k2", body()).await.unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
}

impl RetryPolicy {
    /// The longest wait after attempt `attempt`, which counts from 1.
    fn ceiling(&self, attempt: u32) -> Duration {
        crate::backoff::ceiling(self.initial, self.max, attempt)
    }
}

#[test]
fn waits_grow_to_their_limit_and_no_further() {
    let policy = RetryPolicy::default();
    assert_eq!(policy.ceiling(1), Duration::from_millis(100));
    assert_eq!(policy.ceiling(2), Duration::from_millis(200));
    assert_eq!(policy.ceiling(7), Duration::from_millis(6400));
    for attempt in [8, 40, u32::MAX] {
        assert_eq!(policy.ceiling(attempt), policy.max);
    }
}
