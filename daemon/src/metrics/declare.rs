//! How a metric is declared: once, with its type, labels and meaning.
//!
//! From one row of [`metrics!`] come the handle that counts, its registration, and the row of
//! `docs/metrics.md`.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

/// Upper bounds in seconds, from a request within a rack to one that is about to be given up.
const LATENCIES: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// A metric as it is documented.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// The heading of `docs/metrics.md` below which it stands.
    pub section: &'static str,
    /// Its name, with the prefix of the program.
    pub name: &'static str,
    /// Prometheus' word for its type.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means; Prometheus' help text.
    pub help: &'static str,
}

/// A type of metric that can be declared.
pub trait Handle: Collector + Clone + Sized + 'static {
    /// Prometheus' word for it.
    const KIND: &'static str;

    /// One that counts nothing yet.
    ///
    /// # Errors
    /// When Prometheus allows no such name or label.
    fn make(opts: Opts, labels: &[&str]) -> Result<Self, prometheus::Error>;
}

/// Implements [`Handle`] for types of one shape.
macro_rules! handles {
    ($($handle:ty: $kind:literal, |$opts:ident, $labels:ident| $made:expr;)+) => {
        $(impl Handle for $handle {
            const KIND: &'static str = $kind;

            fn make($opts: Opts, $labels: &[&str]) -> Result<Self, prometheus::Error> {
                $made
            }
        })+
    };
}

handles! {
    Gauge: "gauge", |opts, _labels| Gauge::with_opts(opts);
    GaugeVec: "gauge", |opts, labels| GaugeVec::new(opts, labels);
    IntGauge: "gauge", |opts, _labels| IntGauge::with_opts(opts);
    IntGaugeVec: "gauge", |opts, labels| IntGaugeVec::new(opts, labels);
    IntCounter: "counter", |opts, _labels| IntCounter::with_opts(opts);
    IntCounterVec: "counter", |opts, labels| IntCounterVec::new(opts, labels);
    Histogram: "histogram", |opts, _labels| Histogram::with_opts(latencies(opts));
    HistogramVec: "histogram", |opts, labels| HistogramVec::new(latencies(opts), labels);
}

fn latencies(opts: Opts) -> HistogramOpts {
    HistogramOpts::from(opts).buckets(LATENCIES.to_vec())
}

/// A handle that `registry` shows.
pub(super) fn registered<H: Handle>(registry: &Registry, declared: &Declaration) -> H {
    let opts = Opts::new(declared.name, declared.help);
    let handle = H::make(opts, declared.labels).expect("a name and labels that Prometheus allows");
    registry
        .register(Box::new(handle.clone()))
        .expect("a name that is not taken");
    handle
}

/// Declares a struct of handles, one for each metric, and the list of their declarations.
macro_rules! metrics {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($section:literal => {
                $($field:ident: $handle:ident $([$($label:literal),+])? = $help:literal;)+
            })+
        }
    ) => {
        $(#[$meta])*
        pub struct $name {
            $($(
                #[doc = $help]
                pub $field: prometheus::$handle,
            )+)+
        }

        impl $name {
            /// Every metric, in the order of `docs/metrics.md`.
            pub const DECLARED: &'static [$crate::metrics::declare::Declaration] = &[
                $($($crate::metrics::declare::Declaration {
                    section: $section,
                    name: concat!("walvault_", stringify!($field)),
                    kind: <prometheus::$handle as $crate::metrics::declare::Handle>::KIND,
                    labels: &[$($($label),+)?],
                    help: $help,
                },)+)+
            ];

            /// All of them, at zero, shown by `registry`.
            pub(super) fn new(registry: &prometheus::Registry) -> $name {
                // Fields of a literal are evaluated in the order in which they are written.
                let mut declared = $name::DECLARED.iter();
                let mut next = || declared.next().expect("a declaration for each field");
                $name {
                    $($($field: $crate::metrics::declare::registered(registry, next()),)+)+
                }
            }
        }
    };
}

pub(super) use metrics;
