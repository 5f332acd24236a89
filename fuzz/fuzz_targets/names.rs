#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    walvault_decoders::run("names", input);
});
