"""Writes tests/fixtures/trl_ppo.json: fixed numbers through the PPO loop of TRL 0.24, the last release that had one.

    python -m venv /tmp/trl024 && /tmp/trl024/bin/pip install trl==0.24.0 transformers==4.57.1 torch==2.8.0
    /tmp/trl024/bin/python scripts/oracle/trl_ppo.py

TRL has no function for this part: rewards, advantages and losses are statements in the middle of `PPOTrainer.train`. So the script takes
exactly those statements from the installed package and runs them on our numbers, with TRL's own `masked_whiten` and `masked_mean`. What is
written is therefore TRL's arithmetic, not a reading of it.

Each case has `settings`, `inputs` and `outputs`. Matrices are rows of LENGTH slots, one row a response; slots after a response's end hold
noise that no result may depend on. In TRL the score lands one slot after the last token where there is one, a value is trained
there too, advantages are whitened with the unbiased variance, and the missing-end penalty is subtracted.
"""

import inspect
import json
import pathlib
import re
import textwrap
from types import SimpleNamespace

import torch
import transformers
import trl
from trl.core import masked_mean, masked_whiten
from trl.trainer import ppo_trainer

TOKENS = [3, 8, 1, 6, 8]  # of each response, its EOS token included
ENDED = [True, False, True, True, True]
LENGTH = max(TOKENS)
DEFAULTS = dict(
    kl_coef=0.05, kl_estimator="k1", whiten_rewards=False, gamma=1.0, lam=0.95, cliprange=0.2, cliprange_value=0.2, vf_coef=0.1, missing_eos_penalty=1.0
)
CASES = {"defaults": {}, "k3, whitened rewards, discount": dict(kl_estimator="k3", whiten_rewards=True, gamma=0.99, lam=0.9, kl_coef=0.2)}


def statements(first, last):
    """The lines of PPOTrainer.train from the one that starts with `first` to the one that starts with `last`, as runnable code."""
    lines = inspect.getsource(ppo_trainer.PPOTrainer.train).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(first))
    end = next(i for i, line in enumerate(lines) if i > start and line.strip().startswith(last))
    return compile(textwrap.dedent("\n".join(lines[start : end + 1])), "PPOTrainer.train", "exec")


PENALISE = statements("if self.args.missing_eos_penalty", "scores[~contain_eos_token]")
ADVANTAGES = statements("response_idxs = ", "advantages = torch.masked_fill(")
MASK_NEW = statements("new_logprobs = torch.masked_fill(", ")")
LOSS = statements("vpred = torch.masked_fill(", "loss = pg_loss")
CLIPPED = statements("pg_clipfrac = masked_mean(", ")")


def random_inputs():
    """Three decimals, so that the file can be read; f64, so that rounding does not matter."""
    torch.manual_seed(24)

    rows = (len(TOKENS), LENGTH)

    def normal(scale, *shape):
        return torch.randn(*shape, dtype=torch.float64) * scale

    logprobs, values = -normal(1.0, *rows).abs() - 0.1, normal(0.8, *rows)
    inputs = dict(
        logprobs=logprobs,
        ref_logprobs=(logprobs + normal(0.3, *rows)).clamp(max=-0.01),
        values=values,
        scores=normal(1.5, len(TOKENS)),
        new_logprobs=(logprobs + normal(0.25, *rows)).clamp(max=-0.01),  # some ratios leave [.8, 1.2], on both sides
        new_values=values + normal(0.3, *rows),
    )
    return {key: value.round(decimals=3) for key, value in inputs.items()}


def run(settings, inputs):
    args = SimpleNamespace(**settings)
    before_whitening = []

    def recording_whiten(values, mask, shift_mean=True):
        before_whitening.append(values.clone())
        return masked_whiten(values, mask, shift_mean)

    scope = {key: value.clone() for key, value in inputs.items()}
    scope |= dict(
        torch=torch, args=args, self=SimpleNamespace(args=args), INVALID_LOGPROB=ppo_trainer.INVALID_LOGPROB, masked_mean=masked_mean,
        masked_whiten=recording_whiten, responses=torch.zeros(len(TOKENS), LENGTH), contain_eos_token=torch.tensor(ENDED),
        sequence_lengths=torch.tensor(TOKENS) - 1,  # TRL's word for the index of the last token
    )  # fmt: skip
    exec(PENALISE, scope)
    exec(ADVANTAGES, scope)

    new_logprobs, new_values = (inputs[key].clone().requires_grad_() for key in ("new_logprobs", "new_values"))
    scope |= dict(new_logprobs=new_logprobs, vpred=new_values, micro_batch_inds=torch.arange(len(TOKENS)))
    scope |= dict(mb_logprobs=scope["logprobs"], mb_values=scope["values"], mb_return=scope["returns"], mb_advantage=scope["advantages"])
    exec(MASK_NEW, scope)
    exec(LOSS, scope)
    exec(CLIPPED, scope)
    scope["loss"].backward()

    outputs = {key: scope[key] for key in ("scores", "kl", "non_score_reward", "rewards", "advantages", "returns")}
    outputs["advantages_before_whitening"] = before_whitening[-1]
    outputs |= dict(policy_loss=scope["pg_loss"], value_loss=scope["vf_loss"], loss=scope["loss"])
    outputs |= dict(policy_clipfrac=scope["pg_clipfrac"], value_clipfrac=scope["vf_clipfrac"])
    outputs |= dict(grad_new_logprobs=new_logprobs.grad, grad_new_values=new_values.grad)
    return outputs


def main():
    if trl.__version__ != "0.24.0":
        raise SystemExit(f"trl {trl.__version__} is installed; this script takes its statements from 0.24.0 (see the top of the file)")
    inputs = random_inputs()

    def plain(tensors):
        """Lists of floats with twelve digits."""
        return {key: json.loads(json.dumps(value.tolist()), parse_float=lambda x: float(f"{float(x):.12g}")) for key, value in tensors.items()}

    cases = []
    for name, changes in CASES.items():
        settings = DEFAULTS | changes
        outputs = run(settings, inputs)
        cases.append(dict(name=name, settings=settings, inputs=dict(tokens=TOKENS, ended=ENDED, **plain(inputs)), outputs=plain(outputs)))
        print(f"{name:32} policy {outputs['policy_loss']:.6f}  value {outputs['value_loss']:.6f}  clipped {outputs['policy_clipfrac']:.3f}")
    file = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/trl_ppo.json"
    versions = dict(script="scripts/oracle/trl_ppo.py", trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__)
    text = json.dumps(dict(made_by=versions, cases=cases), indent=1)
    text = re.sub(r"\[([^\[\]]+)\]", lambda row: "[" + " ".join(row[1].split()) + "]", text)  # one row of a matrix per line
    file.write_text(text + "\n")
    print(f"{file.stat().st_size / 1024:.1f} KiB in {file.name}")


if __name__ == "__main__":
    main()
