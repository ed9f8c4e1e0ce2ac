"""Estimates of SCOPE-RL for `benchmarks.ope_peer`: `scope_cases.py INPUTS.npz OUTPUTS.json`; imports nothing of rlx."""

import json
import sys
import time

import numpy as np
from scope_rl.ope import continuous

ESTIMATORS = {
    "TIS": continuous.TrajectoryWiseImportanceSampling,
    "SNTIS": continuous.SelfNormalizedTIS,
    "PDIS": continuous.PerDecisionImportanceSampling,
    "SNPDIS": continuous.SelfNormalizedPDIS,
    "DM": continuous.DirectMethod,
    "DR": continuous.DoublyRobust,
    "WDR": continuous.SelfNormalizedDR,
    "MIS": continuous.StateActionMarginalIS,
    "MDR": continuous.StateActionMarginalDR,
}


def main() -> None:
    inputs = np.load(sys.argv[1])
    candidates, count, steps = inputs["target"].shape[:3]

    def of(i: int) -> dict:
        return {
            "step_per_trajectory": steps,
            "n_step_pdis": 0,
            "action": inputs["action"].reshape(count * steps, -1),
            "reward": inputs["reward"].reshape(-1),
            "pscore": inputs["pscore"].reshape(count * steps, -1),
            "evaluation_policy_action": inputs["target"][i].reshape(count * steps, -1),
            "state_action_value_prediction": np.stack([inputs["q"][i], inputs["v"][i]], axis=-1).reshape(-1, 2),
            "initial_state_value_prediction": inputs["v"][i][:, 0],
            "state_action_marginal_importance_weight": inputs["marginal"][i].reshape(-1),
            "gamma": float(inputs["gamma"]),
            "bandwidth": float(inputs["bandwidth"]),
        }

    found = {name: [] for name in ESTIMATORS}
    seconds = []
    for _ in range(int(inputs["repeats"])):
        start = time.process_time()
        for name, make in ESTIMATORS.items():
            estimator = make()
            found[name] = []
            for i in range(candidates):
                arguments = of(i)
                estimate = estimator.estimate_policy_value(**arguments)
                bootstraps = {"ci": "bootstrap", "n_bootstrap_samples": int(inputs["bootstraps"]), "random_state": 0}
                interval = estimator.estimate_interval(**arguments, **bootstraps)
                found[name].append([float(estimate), *map(float, interval.values())])
        seconds.append(time.process_time() - start)
    terms = inputs["terms"]
    intervals = {}
    for kind in ("ttest", "bernstein", "hoeffding"):
        function = continuous.DirectMethod()._estimate_confidence_interval[kind]
        intervals[kind] = list(map(float, function(samples=terms, alpha=0.05).values()))
    json_text = json.dumps({"estimates": found, "seconds": seconds, "intervals": intervals})
    open(sys.argv[2], "w").write(json_text)


if __name__ == "__main__":
    main()
