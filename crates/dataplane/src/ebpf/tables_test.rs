//! Slots change as little as they can.

use proptest::prelude::*;

use super::*;

fn backend(n: u8) -> Backend {
    Backend { addr: IpAddr::from([10, 0, 0, n]).into(), ..Backend::default() }
}

fn writes(old: &[Backend], new: &[Backend]) -> usize {
    (0..old.len().max(new.len())).filter(|&i| old.get(i) != new.get(i)).count()
}

proptest! {
    #[test]
    fn arranged_slots_hold_exactly_what_is_wanted(old in prop::collection::btree_set(0_u8..40, 0..20),
                                                  wanted in prop::collection::btree_set(0_u8..40, 0..20)) {
        let old: Vec<Backend> = old.into_iter().map(backend).collect();
        let wanted: BTreeSet<Backend> = wanted.into_iter().map(backend).collect();
        let new = arrange(&old, &wanted);
        prop_assert_eq!(new.len(), wanted.len());
        prop_assert_eq!(new.iter().copied().collect::<BTreeSet<_>>(), wanted.clone());
        let changes = old.iter().filter(|b| !wanted.contains(b)).count()
            + wanted.iter().filter(|b| !old.contains(b)).count();
        prop_assert!(writes(&old, &new) <= 2 * changes);
    }
}

#[test]
fn one_backend_more_or_less_is_one_or_two_slots() {
    let all: Vec<Backend> = (1..=100).map(backend).collect();
    let wanted: BTreeSet<Backend> = all.iter().copied().collect();
    let more = arrange(&all[..99], &wanted);
    assert_eq!(writes(&all[..99], &more), 1);
    let less: BTreeSet<Backend> = all[1..].iter().copied().collect();
    assert_eq!(writes(&all, &arrange(&all, &less)), 2);
}
