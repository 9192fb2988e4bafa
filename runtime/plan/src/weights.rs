//! Values of cgroup v1 as those of v2.

/// cpu.shares (2 to 262144) as cpu.weight (1 to 10000), 1024 being 100: the quadratic of runc 1.3 and crun 1.20.
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        s => {
            // The library's logarithm and power come with tables that are larger than this.
            let l = log2(s);
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            // What is a whole number but for rounding stays one.
            (exp10(exponent) - 1e-9) as u64 + 1
        }
    }
}

/// The logarithm, bit by bit: the square of a number has twice its logarithm.
fn log2(n: u64) -> f64 {
    let whole = n.ilog2();
    let (mut rest, mut out, mut bit) = (n as f64 / (1u64 << whole) as f64, f64::from(whole), 1.0);
    for _ in 0..52 {
        bit /= 2.0;
        rest *= rest;
        if rest >= 2.0 {
            rest /= 2.0;
            out += bit;
        }
    }
    out
}

/// 10^x for x from 0 to 4, as a product of roots of two.
fn exp10(x: f64) -> f64 {
    let power = x * std::f64::consts::LOG2_10;
    let whole = power as u64;
    let (mut rest, mut out, mut root) = (power - whole as f64, (1u64 << whole) as f64, 2.0f64);
    for _ in 0..52 {
        root = root.sqrt();
        rest *= 2.0;
        if rest >= 1.0 {
            rest -= 1.0;
            out *= root;
        }
    }
    out
}

/// blkio.weight (10 to 1000) as io.weight (1 to 10000).
pub fn io_weight(weight: u64) -> u64 {
    1 + weight.clamp(10, 1000).saturating_sub(10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        for shares in 3..262_144u64 {
            let l = (shares as f64).log2();
            let want = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64;
            assert_eq!(weight(shares), want, "{shares}");
        }
        for (shares, want) in
            [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (300_000, 10_000), (512, 59)]
        {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }
}
