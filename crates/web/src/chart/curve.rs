//! Making a curve of many points readable: smoothing and thinning.

/// Largest number of points of a curve; more than the chart has pixels would only make the page larger.
const MOST_POINTS: usize = 400;
/// Smallest number of points of a curve that is drawn smoothed, over a faint line of the raw values.
const SMOOTH_FROM: usize = 40;

/// Whether a curve is drawn smoothed.
pub(crate) fn needs_smoothing(points: &[(f64, f64)]) -> bool {
    points.len() >= SMOOTH_FROM && !is_smooth(points)
}

/// Whether the curve, like a schedule, goes up and down little compared with its range and needs no smoothing.
fn is_smooth(points: &[(f64, f64)]) -> bool {
    let ways: f64 = points
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1).abs())
        .sum();
    let (low, high) = points
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| {
            (l.min(p.1), h.max(p.1))
        });
    ways <= 3.0 * (high - low)
}

/// An exponential moving average that starts unbiased: sₜ = Σ aᵗ⁻ⁱ yᵢ / Σ aᵗ⁻ⁱ, with a chosen so that it looks back over
/// about a twentieth of the curve.
pub(crate) fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 20.0 / points.len().max(40) as f64;
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(x, y)| {
            sum = keep * sum + y;
            weight = keep * weight + 1.0;
            (x, sum / weight)
        })
        .collect()
}

/// At most [`MOST_POINTS`] of the points: the lowest and the highest of each stretch, so that no spike is lost.
pub(crate) fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    points
        .chunks(stretch)
        .flat_map(|chunk| {
            let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let low = chunk.iter().min_by(by_y).copied();
            let high = chunk.iter().max_by(by_y).copied();
            let mut pair: Vec<_> = low.into_iter().chain(high).collect();
            pair.sort_by(|a, b| a.0.total_cmp(&b.0));
            pair.dedup();
            pair
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_every_spike() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 0.0)).collect();
        points[7_321].1 = 9.0;
        let thinned = thin(&points);
        assert!(thinned.len() <= MOST_POINTS);
        assert!(thinned.contains(&(7_321.0, 9.0)));
        assert!(thinned.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn a_schedule_is_smooth_and_noise_is_not() {
        let rise_and_fall: Vec<_> = (0..100)
            .map(|i| (f64::from(i), -f64::from(i - 50).abs()))
            .collect();
        assert!(is_smooth(&rise_and_fall));
        let zigzag: Vec<_> = (0..100).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(!is_smooth(&zigzag));
    }

    #[test]
    fn smoothing_leaves_a_constant_alone_and_starts_at_the_first_value() {
        let constant: Vec<_> = (0..100).map(|i| (f64::from(i), 2.0)).collect();
        assert!(smooth(&constant).iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
        let step: Vec<_> = (0..100).map(|i| (f64::from(i), f64::from(i))).collect();
        assert_eq!(smooth(&step)[0], (0.0, 0.0));
    }
}
