//! Any sequence of operations and times, against a plain map: nothing that has expired is served, nothing live is lost
//! but to eviction, values are byte for byte, CAS and counters are exact.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are not seen as tests by the linter")]

mod operation;
mod pair;

use operation::{Kind, Operation};
use pair::{LARGEST, Pair};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::sample::select;
use segcache::Eviction;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { ProptestConfig::default().cases },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Few keys, so that each has a history; little memory, so that every mechanism runs.
    #[test]
    fn a_cache_is_a_map_that_forgets(
        eviction in evictions(),
        memory in 6_usize..if cfg!(miri) { 7 } else { 20 },
        keys in 5_u16..2000,
        seed: u64,
        operations in proptest::collection::vec(operations(2000), 1..if cfg!(miri) { 60 } else { 600 }),
    ) {
        let mut pair = Pair::new(eviction, memory * (64 << 10), seed);
        for operation in operations {
            pair.apply(&operation.folded(keys));
        }
        pair.check_all();
    }
}

#[cfg(not(miri))]
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The same, with the process ending every now and then.
    #[test]
    fn a_cache_on_a_volume_forgets_nothing_when_its_process_ends(
        eviction in evictions(),
        memory in 6_usize..20,
        keys in 5_u16..2000,
        seed: u64,
        operations in proptest::collection::vec(
            prop_oneof![30 => operations(2000), 1 => any::<bool>().prop_map(|clean| Operation::Reopen { clean })],
            1..400,
        ),
    ) {
        let mut pair = Pair::on_volume(eviction, memory * (64 << 10), seed);
        for operation in operations {
            pair.apply(&operation.folded(keys));
        }
        pair.check_all();
    }
}

fn ttls() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        2 => Just(None),
        6 => (0_i64..100).prop_map(Some),
        3 => (0_i64..5_000).prop_map(Some),
        1 => (0_i64..10_000_000).prop_map(Some),
        1 => Just(Some(-1)),
    ]
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        5 => Just(Kind::Set),
        1 => Just(Kind::Add),
        1 => Just(Kind::Replace),
        1 => Just(Kind::Append),
        1 => Just(Kind::Prepend),
        2 => any::<bool>().prop_map(Kind::Cas),
        2 => (-1_i64..=1).prop_map(Kind::CasOrStale),
    ]
}

fn operations(keys: u16) -> impl Strategy<Value = Operation> {
    let lengths = || prop_oneof![8 => 0_usize..200, 2 => 0..LARGEST + 2];
    let flags = prop_oneof![3 => Just(0_u32), 1 => 0_u32..300, 1 => any::<u32>()];
    let own_cas = prop_oneof![9 => Just(None), 1 => any::<u64>().prop_map(Some)];
    let number = prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        Just("007".to_owned()),
        Just("5   ".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("nine".to_owned()),
        Just("99".to_owned()),
    ];
    prop_oneof![
        20 => (0..keys).prop_map(Operation::Get),
        3 => (0..keys).prop_map(Operation::Peek),
        30 => (kinds(), 0..keys, lengths(), flags, ttls(), own_cas).prop_map(|(mode, key, length, flags, ttl, cas)| {
            Operation::Store { mode, key, length, flags, ttl, cas }
        }),
        4 => (kinds(), 0..keys, lengths(), ttls(), any::<bool>(), 0..keys).prop_map(
            |(mode, key, length, ttl, commit, between)| Operation::Reserve { mode, key, length, ttl, commit, between }
        ),
        3 => (0..keys, number, ttls()).prop_map(|(key, text, ttl)| Operation::Number { key, text, ttl }),
        6 => (0..keys, prop_oneof![0_u64..1000, any::<u64>()], any::<bool>())
            .prop_map(|(key, delta, up)| Operation::Count { key, delta, up }),
        6 => (0..keys, ttls(), any::<bool>()).prop_map(|(key, ttl, get)| Operation::Touch { key, ttl, get }),
        5 => (0..keys).prop_map(Operation::Delete),
        4 => (0..keys, proptest::option::of(ttls()), proptest::option::weighted(0.1, any::<u64>()))
            .prop_map(|(key, ttl, cas)| Operation::MarkStale { key, ttl, cas }),
        3 => (0..keys, ttls()).prop_map(|(key, ttl)| Operation::Vivify { key, ttl }),
        6 => (0..keys).prop_map(Operation::Win),
        3 => (0..keys).prop_map(Operation::KeepAccess),
        1 => prop_oneof![Just(None), (0_u64..20).prop_map(Some)].prop_map(Operation::Flush),
        8 => prop_oneof![5 => 0_u64..5, 2 => 0_u64..200, 1 => 0_u64..100_000].prop_map(Operation::Advance),
        3 => (0..keys, 0_u16..300, 0_usize..100, ttls())
            .prop_map(|(first, count, length, ttl)| Operation::Fill { first, count, length, ttl }),
        3 => Just(Operation::Maintain),
    ]
}

fn evictions() -> impl Strategy<Value = Eviction> {
    prop_oneof![
        7 => select(&Eviction::ALL),
        1 => Just(Eviction::None),
        2 => Just(Eviction::Merge),
    ]
}
