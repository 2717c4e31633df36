"""CrossQ in PyTorch, its networks sparse as DS-TD3's are: SAC without target networks, by batch norms.

Source: Bhatt, Palenicek, Belousov, Argus, Amiranashvili, Brox, Peters: CrossQ: Batch Normalization in Deep
Reinforcement Learning for Greater Sample Efficiency and Simplicity (ICLR 2024); what it leaves open is settled in
docs/algorithm.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention
from torch import Tensor

from edgerl.algorithms.sac import SAC
from edgerl.edge.continual.replay import Batch
from edgerl.edge.engine.random import Purpose


class CrossQ(SAC):
    """SAC's policy and temperature; the critics value what was and what follows in one batch, by whose statistics both
    are normalised."""

    critics_have_targets = False

    def update(self, batch: Batch) -> None:
        """One update on one mini-batch."""
        next_noise, noise = self._tensor(self._noise(Purpose.TARGET_NOISE)), self._tensor(self._noise(Purpose.POLICY))
        self.updates += 1
        self._step_critics(self._joint_loss(batch, next_noise))
        if self.updates % self.config.learning.policy_delay == 0:
            self._learn_policy(self._tensor(batch.observations), noise)

    def _joint_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """The mean square errors of both critics to r + γ (1 − terminated) (min Q(s', a') − α log π(a' | s')), through
        which no gradient passes; (s, a) and (s', a') are the halves of one batch."""
        observations, next_observations = self._tensor(batch.observations), self._tensor(batch.next_observations)
        with torch.no_grad():
            next_actions, log_density = self._sample(next_observations, noise)
        now = torch.cat([observations, self._tensor(batch.actions)], dim=1)
        following = torch.cat([next_observations, next_actions], dim=1)
        x = torch.cat([now, following])
        both = Purpose.DROPOUT, Purpose.TARGET_DROPOUT
        (q1, next_q1), (q2, next_q2) = (
            critic.online(x, train=True, dropout=self._dropout(critic, *both)).squeeze(1).chunk(2)
            for critic in self.critics
        )
        value = torch.minimum(next_q1, next_q2).detach() - self.temperature * log_density
        target = self._tensor(batch.returns).addcmul(self._tensor(batch.discounts), value)
        return F.mse_loss(q1, target) + F.mse_loss(q2, target)
