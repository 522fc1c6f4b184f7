"""Linear–quadratic control in closed form: what a deterministic policy gradient is compared with.

x′ = A x + B u + w, w ~ N(0, W); reward −(xᵀQx + uᵀRu), discounted by γ; x₀ has second moment X₀. A policy is a
gain K: u = −K x. Everything in NumPy; SciPy solves the Lyapunov and Riccati equations.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from ridgeline.theory.property import needs

type Gain = Float[np.ndarray, "m n"]


@dataclasses.dataclass(frozen=True)
class LQR:
    """A, B, Q ≽ 0, R ≻ 0, γ, the second moment X₀ of the first state and the covariance W of the noise."""

    A: Float[np.ndarray, "n n"]
    B: Float[np.ndarray, "n m"]
    Q: Float[np.ndarray, "n n"]
    R: Float[np.ndarray, "m m"]
    gamma: float
    start: Float[np.ndarray, "n n"]
    noise: Float[np.ndarray, "n n"]

    @classmethod
    def random(
        cls, rng: np.random.Generator, n: int = 3, m: int = 2, gamma: float = 0.9, noise: float = 0.0
    ) -> "LQR":
        """Dynamics of spectral radius 0.9, so that every small gain is stable; unit costs, perturbed."""
        A = rng.normal(size=(n, n))
        A = 0.9 * A / np.max(np.abs(np.linalg.eigvals(A)))
        q, r = rng.normal(size=(n, n)), rng.normal(size=(m, m))
        unit, moment = np.eye(n), rng.normal(size=(n, n))
        return cls(
            A,
            rng.normal(size=(n, m)),
            unit + 0.1 * q @ q.T,
            np.eye(m) + 0.1 * r @ r.T,
            gamma,
            unit + moment @ moment.T,
            noise * unit,
        )

    def closed_loop(self, K: Gain) -> Float[np.ndarray, "n n"]:
        """A − B K."""
        return self.A - self.B @ K

    def cost_to_go(self, K: Gain) -> Float[np.ndarray, "n n"]:
        """P = Q + KᵀRK + γ (A − BK)ᵀ P (A − BK); V(x) = −xᵀPx − γ/(1 − γ) tr(P W)."""
        return _lyapunov(np.sqrt(self.gamma) * self.closed_loop(K).T, self.Q + K.T @ self.R @ K)

    def action_value(self, K: Gain) -> tuple[Float[np.ndarray, "k k"], float]:
        """(H, c) with Q(x, u) = −zᵀHz − c, z = (x, u): r + γ E V(x′)."""
        P, joint = self.cost_to_go(K), np.concatenate([self.A, self.B], 1)
        n = len(self.A)
        H = self.gamma * joint.T @ P @ joint
        H[:n, :n] += self.Q
        H[n:, n:] += self.R
        return H, float(self.gamma / (1 - self.gamma) * np.trace(P @ self.noise))

    def performance(self, K: Gain) -> float:
        """J(K) = E V(x₀)."""
        P = self.cost_to_go(K)
        return float(-np.trace(P @ (self.start + self.gamma / (1 - self.gamma) * self.noise)))

    def state_moment(self, K: Gain) -> Float[np.ndarray, "n n"]:
        """X = Σₜ γᵗ E xₜxₜᵀ, which solves X = X₀ + γ/(1 − γ) W + γ (A − BK) X (A − BK)ᵀ."""
        first = self.start + self.gamma / (1 - self.gamma) * self.noise
        return _lyapunov(np.sqrt(self.gamma) * self.closed_loop(K), first)

    def gradient(self, K: Gain) -> Gain:
        """∇J(K) = −2 [(R + γBᵀPB) K − γBᵀPA] X (Fazel et al. 2018, lemma 1, discounted)."""
        P = self.cost_to_go(K)
        inner = (self.R + self.gamma * self.B.T @ P @ self.B) @ K - self.gamma * self.B.T @ P @ self.A
        return -2 * inner @ self.state_moment(K)

    def optimal_gain(self) -> Gain:
        """K* = γ (R + γBᵀPB)⁻¹ BᵀPA, with P of the discounted Riccati equation."""
        root = np.sqrt(self.gamma)
        P = needs("scipy.linalg").solve_discrete_are(root * self.A, root * self.B, self.Q, self.R)
        return self.gamma * np.linalg.solve(self.R + self.gamma * self.B.T @ P @ self.B, self.B.T @ P @ self.A)


def _lyapunov(F: Float[np.ndarray, "n n"], C: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """X = F X Fᵀ + C. Only where F is stable does the series that X stands for converge."""
    if np.max(np.abs(np.linalg.eigvals(F))) >= 1:
        raise ValueError("the gain does not stabilise the system")
    return np.asarray(needs("scipy.linalg").solve_discrete_lyapunov(F, C))
