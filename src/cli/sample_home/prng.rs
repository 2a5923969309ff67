//! Where do the sample's choices come from? A splitmix64 generator of our own: the same seed gives
//! the same home with every version of every crate. Depends on nothing.

/// What a stream of numbers is for. Streams of different purposes never influence each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// When a thread is, and what kind of thread.
    Identity = 1,
    /// Which thread it came from.
    Parent = 2,
    /// What was said in it.
    Content = 3,
    /// How its file was damaged, and what lies beside it.
    Damage = 4,
    /// What it is called.
    Name = 5,
    /// What a project folder is like.
    Project = 6,
}

/// A splitmix64 generator (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(super) struct Prng(u64);

fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Prng {
    /// The stream of `number` (a thread, a project) for one purpose.
    pub(super) fn new(seed: u64, number: u64, purpose: Purpose) -> Prng {
        Prng(mix(mix(mix(seed).wrapping_add(number)).wrapping_add(purpose as u64)))
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        let value = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value
    }

    /// A number in `0..limit`; 0 where `limit` is 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// True this many times in a thousand.
    pub(super) fn per_mille(&mut self, rate: u64) -> bool {
        self.below(1000) < rate
    }

    /// One of `choices`, which must not be empty.
    pub(super) fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// One index, the first ones far more often than the last (about the square root of a Zipf law).
    pub(super) fn skewed(&mut self, limit: u64) -> u64 {
        let unit = self.below(1 << 20);
        let cube = (unit * unit * unit) >> 40;
        (cube * limit) >> 20
    }

    /// A value of a distribution given as equally likely steps, evenly spread within a step.
    pub(super) fn quantile(&mut self, steps: &[u64]) -> u64 {
        let at = self.below(steps.len() as u64) as usize;
        let low = if at == 0 { steps[0] / 2 } else { steps[at - 1] };
        low + self.below(steps[at].saturating_sub(low) + 1)
    }
}

/// An RFC 9562 id in its usual spelling: version 7 from an instant, or version 4.
pub(super) fn thread_id(prng: &mut Prng, unix_ms: i64, is_ordered: bool) -> String {
    let (high, low) = (prng.next(), prng.next());
    let (top, version) = if is_ordered { (unix_ms as u64 & 0xffff_ffff_ffff, 7) } else { (high >> 16, 4) };
    let variant = 0x8000 | (low >> 48 & 0x3fff);
    format!(
        "{:08x}-{:04x}-{version}{:03x}-{variant:04x}-{:012x}",
        top >> 16,
        top & 0xffff,
        high & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_never_changes() {
        let mut prng = Prng(1_234_567);
        // The published first values of splitmix64 for this state.
        assert_eq!(prng.next(), 6_457_827_717_110_365_317);
        assert_eq!(prng.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_stay_in_range() {
        let mut prng = Prng::new(1, 2, Purpose::Identity);
        for _ in 0..1000 {
            assert!(prng.below(7) < 7);
            assert!(prng.skewed(200) < 200);
            assert!((2..=9).contains(&prng.quantile(&[4, 9])));
        }
        assert_eq!(prng.below(0), 0);
    }
}
