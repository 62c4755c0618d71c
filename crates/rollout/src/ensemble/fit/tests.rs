use super::*;
use candle_core::Device;
use rlhf_base::rng::normal;

/// `rows` features of three numbers, and what a person who likes the first of them says about pairs of neighbours.
fn world(rows: usize) -> (Tensor, Vec<Judged>) {
    let mut rng = stream(1, "test", 0);
    let drawn: Vec<f32> = (0..3 * rows).map(|_| normal(&mut rng) as f32).collect();
    let pair = |i: usize| {
        let (a, b) = (2 * i, 2 * i + 1);
        let better = drawn[3 * a] > drawn[3 * b];
        let rows = if better { vec![a, b] } else { vec![b, a] };
        let judgement = Judgement::Ranks {
            ranks: vec![1.0, 2.0],
            margin: 0.0,
            preference: 1.0,
        };
        Judged { judgement, rows }
    };
    let judged = (0..rows / 2).map(pair).collect();
    let features = Tensor::from_vec(drawn, (rows, 3), &Device::Cpu).unwrap();
    (features, judged)
}

fn fit(ensemble: &Ensemble, features: &Tensor, judged: &[Judged]) -> Ensemble {
    ensemble.fit(features, judged, Ties::Half, 0.0, 7).unwrap()
}

fn right(ensemble: &Ensemble, features: &Tensor, judged: &[Judged]) -> f64 {
    let means = ensemble.mean_and_sd(features).unwrap();
    let wins = judged.iter();
    let wins = wins.filter(|it| means[it.rows[0]].0 > means[it.rows[1]].0);
    wins.count() as f64 / judged.len() as f64
}

/// Heads fitted to 100 comparisons order 200 others as the person does; before, they order them at random.
#[test]
fn heads_learn_what_the_person_likes() {
    let (features, judged) = world(600);
    let fresh = Ensemble::fresh(&features, 4, 0).unwrap();
    let fitted = fit(&fresh, &features, &judged[..100]);
    let held_out = &judged[100..];
    assert!(right(&fitted, &features, held_out) > 0.9);
    assert!(right(&fresh, &features, held_out) < 0.8);
}

/// The heads differ less about features like those they were fitted to than about features far away from all of them.
#[test]
fn heads_disagree_about_what_they_have_not_seen() {
    let (features, judged) = world(200);
    let fitted = fit(
        &Ensemble::fresh(&features, 8, 0).unwrap(),
        &features,
        &judged,
    );
    let spread = |features: &Tensor| {
        let all = fitted.mean_and_sd(features).unwrap();
        all.iter().map(|(_, sd)| sd).sum::<f64>() / all.len() as f64
    };
    let (near, far) = (spread(&features), spread(&(&features * 10.0).unwrap()));
    assert!(far > 2.0 * near, "{far} and {near}");
}

/// The weights of the bootstrap have the moments of Poisson(1): mean and variance 1; five standard errors of the mean are 5·√(1/40 000) = .025,
/// those of the variance 5·√(3/40 000) = .043.
#[test]
fn judgements_weigh_poisson_of_one() {
    let mut rng = stream(0, "test", 0);
    let draws: Vec<f64> = (0..40_000).map(|_| f64::from(poisson(&mut rng))).collect();
    let mean = draws.iter().sum::<f64>() / draws.len() as f64;
    let variance = draws.iter().map(|k| (k - 1.0).powi(2)).sum::<f64>() / draws.len() as f64;
    assert!((mean - 1.0).abs() < 0.025, "{mean}");
    assert!((variance - 1.0).abs() < 0.043, "{variance}");
}

/// Every kind of feedback moves the heads its way: after thumbs and ratings, what was liked scores above what was not.
#[test]
fn thumbs_ratings_and_choices_are_learnt_too() {
    let (features, _) = world(4);
    let fresh = Ensemble::fresh(&features, 4, 3).unwrap();
    let of = |judgement, rows: &[usize]| Judged {
        judgement,
        rows: rows.to_vec(),
    };
    for (kind, judged) in [
        vec![
            of(Judgement::Thumbs(true), &[0]),
            of(Judgement::Thumbs(false), &[1]),
        ],
        vec![
            of(Judgement::Rating(1.0), &[0]),
            of(Judgement::Rating(-1.0), &[1]),
        ],
        vec![of(Judgement::Best(1), &[1, 0, 2])],
    ]
    .into_iter()
    .enumerate()
    {
        // Ten of each, so that no head leaves one out.
        let fitted = {
            let many: Vec<Judged> = judged
                .iter()
                .cycle()
                .take(10 * judged.len())
                .cloned()
                .collect();
            fit(&fresh, &features, &many)
        };
        for own in fitted.scores(&features).unwrap() {
            assert!(own[0] > own[1], "kind {kind}: {own:?}");
        }
    }
}

#[test]
fn features_of_another_width_are_refused() {
    let (features, _) = world(4);
    let ensemble = Ensemble::fresh(&features, 2, 0).unwrap();
    let other = Tensor::zeros((2, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
    let said = ensemble.scores(&other).unwrap_err().to_string();
    assert!(said.contains('3') && said.contains('5'), "{said}");
}

/// The same judgements give the same heads to the last bit, in any thread. (The kernels hold to this for any number of threads.)
#[test]
fn a_fit_is_a_function_of_its_arguments() {
    let (features, judged) = world(200);
    let fresh = Ensemble::fresh(&features, 3, 0).unwrap();
    let scores = || fit(&fresh, &features, &judged).scores(&features).unwrap();
    let once = scores();
    assert_eq!(once, scores());
    // A thread that is not one of the pool's.
    let elsewhere = std::thread::scope(|scope| scope.spawn(scores).join().unwrap());
    assert_eq!(once, elsewhere);
}
