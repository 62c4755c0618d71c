use super::*;

/// Source: Huang et al., "The N+ Implementation Details of RLHF with PPO" (2024); learning rate and clipping are for small models.
#[test]
fn the_defaults_are_those_of_the_n_plus_details() {
    let c = Config::default();
    assert_eq!(
        (
            c.gamma,
            c.lambda,
            c.clip,
            c.value_clip,
            c.value_coef,
            c.kl_coef
        ),
        (1.0, 0.95, 0.2, 0.2, 0.1, 0.05)
    );
    assert_eq!((c.epochs, c.temperature, c.kl_target), (4, 0.7, None));
    assert_eq!((c.adam_eps, c.max_grad_norm, c.lr), (1e-5, 1.0, 1e-5));
    assert!(c.whitens_advantages() && c.schedule == ScheduleKind::Linear);
    assert_eq!(c.missing_eos, MissingEos::Replace(-1.0));
}

#[test]
fn pessimism_needs_a_reward_model() {
    let config = |reward: &str| Config {
        reward: reward.into(),
        pessimism: 1.0,
        ..Config::default()
    };
    config("runs/reward").validate().unwrap();
    let said = config("length:20").validate().unwrap_err().to_string();
    assert!(
        said.contains("ppo.pessimism") && said.contains("length:20"),
        "{said}"
    );
}

#[test]
fn compat_decides_all_three_conventions_and_overrules_none_silently() {
    let config = |compat| Config {
        compat,
        ..Config::default()
    };
    let trl = config(Some(Compat::Trl));
    trl.validate().unwrap();
    assert_eq!(trl.conventions().variance, Variance::Unbiased);
    assert_eq!(trl.conventions().score_slot, ScoreSlot::After);
    assert_eq!(
        config(Some(Compat::Openai)).conventions(),
        config(None).conventions()
    );
    let torn = Config {
        missing_eos: MissingEos::None,
        ..trl.clone()
    };
    let said = torn.validate().unwrap_err().to_string();
    assert!(said.contains("missing_eos"), "{said}");
    let shared = Config {
        critic: CriticKind::Shared,
        ..trl
    };
    let said = shared.validate().unwrap_err().to_string();
    assert!(said.contains("set ppo.critic"), "{said}");
}

/// Sources: OpenAI's PPO and REINFORCE++ (Hu 2025) whiten over the step; RLOO (Ahmadian et al. 2024), GRPO (Shao et al. 2024) and
/// Dr. GRPO (Liu et al. 2025) do not.
#[test]
fn advantages_are_whitened_as_their_source_has_it_unless_told_otherwise() {
    for (advantage, whitened) in [
        (Advantage::Gae, true),
        (Advantage::Rloo, false),
        (Advantage::Grpo, false),
        (Advantage::DrGrpo, false),
        (Advantage::ReinforcePlusPlus, true),
    ] {
        for whiten_advantages in [None, Some(false), Some(true)] {
            let config = Config {
                advantage,
                samples_per_prompt: 2,
                whiten_advantages,
                ..Config::default()
            };
            config.validate().unwrap();
            let want = whiten_advantages.unwrap_or(whitened);
            assert_eq!(config.whitens_advantages(), want, "{advantage:?}");
        }
    }
}

#[test]
fn every_advantage_goes_with_every_penalty_that_penalises() {
    for advantage in [
        Advantage::Gae,
        Advantage::Rloo,
        Advantage::Grpo,
        Advantage::DrGrpo,
        Advantage::ReinforcePlusPlus,
    ] {
        for (kl_in, kl_estimator, refused) in [
            (KlIn::Reward, KlEstimator::K1, false),
            (KlIn::Reward, KlEstimator::K3, false),
            (KlIn::Loss, KlEstimator::K2, false),
            (KlIn::Loss, KlEstimator::K3, false),
            (KlIn::Loss, KlEstimator::K1, true),
        ] {
            let config = Config {
                advantage,
                samples_per_prompt: 2,
                kl_in,
                kl_estimator,
                ..Config::default()
            };
            assert_eq!(config.validate().is_err(), refused, "{advantage:?}");
        }
    }
}

#[test]
fn what_does_not_go_with_an_advantage_is_refused_by_name() {
    let refused = |config: Config, setting: &str, advantage: &str| {
        let said = config.validate().unwrap_err().to_string();
        assert!(said.contains(setting) && said.contains(advantage), "{said}");
    };
    for advantage in [
        Advantage::Rloo,
        Advantage::Grpo,
        Advantage::DrGrpo,
        Advantage::ReinforcePlusPlus,
    ] {
        let name = advantage.name();
        let config = || Config {
            advantage,
            samples_per_prompt: 2,
            ..Config::default()
        };
        let (mut critic, mut lambda, mut coef, mut clip) = (config(), config(), config(), config());
        critic.critic = CriticKind::Shared;
        lambda.lambda = 0.9;
        coef.value_coef = 1.0;
        clip.value_clip = 0.1;
        refused(critic, "ppo.critic", name);
        refused(lambda, "ppo.lambda", name);
        refused(coef, "ppo.value_coef", name);
        refused(clip, "ppo.value_clip", name);
        let (mut alone, mut discounted) = (config(), config());
        alone.samples_per_prompt = 1;
        discounted.gamma = 0.9;
        if advantage.compares_responses() {
            refused(alone, "ppo.samples_per_prompt", name);
            refused(discounted, "ppo.gamma", name);
            let mut unread = config();
            unread.variance = Variance::Unbiased;
            refused(unread, "ppo.variance", "ppo.whiten_advantages");
        } else {
            alone.validate().unwrap();
            discounted.validate().unwrap();
        }
    }
    let in_the_loss = Config {
        kl_in: KlIn::Loss,
        ..Config::default()
    };
    refused(in_the_loss, "ppo.kl_in", "ppo.kl_estimator");
}
