//! Guests that execute the fuzzer's bytes, in each mode of the CPU.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u64, &[u8])| {
    let (seed, code) = input;
    testkit::garbage::run(seed, code, 500).expect("the engine sets up");
});
