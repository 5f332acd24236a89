//! `put-latency CONFIG BYTES COUNT`: how long one PUT takes to the store that CONFIG names, as JSON.

use std::time::Instant;

use bytes::Bytes;
use walvault_config::Config;
use walvault_store as store;
use walvault_store::{Body, Naming};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, config, size, count] = arguments.as_slice() else {
        return Err("usage: put-latency CONFIG BYTES COUNT".into());
    };
    let config = Config::load(Some(config.as_ref()))?;
    let (size, count): (usize, usize) = (size.parse()?, count.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut taken = runtime.block_on(async {
        let store = store::open_at(&config.archive.url, &config.archive.options).await?;
        let mut taken = Vec::with_capacity(count);
        for number in 0..count {
            let bytes: Vec<u8> = (0..size).map(|_| rand::random()).collect();
            let body = Body::new(Bytes::from(bytes)).named(Naming::Fresh);
            let begun = Instant::now();
            store
                .put(&format!("bench/{:x}/{number}", std::process::id()), body)
                .await?;
            taken.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        Ok::<_, Failure>(taken)
    })?;
    taken.sort_by(f64::total_cmp);
    let at = |share: usize| taken[taken.len() * share / 100];
    println!(
        "{{\"size\": {size}, \"count\": {count}, \"p50_ms\": {:.3}, \"p99_ms\": {:.3}}}",
        at(50),
        at(99)
    );
    Ok(())
}
