"""The five classic control tasks of Gymnasium in pure JAX, equal to the originals step by step.

Angles in radians, time in seconds. A state holds the physical quantities and nothing else, so any state can be
set. The float type follows JAX: float32, or float64 under `jax_enable_x64`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ridgeline.types import Action, ArraySpec, Continuous, Discrete, Environment, EnvSpec, Step

type Scalar = Float[Array, ""]


def wrap(angle: Scalar) -> Scalar:
    """The same angle in [−π, π]."""
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))


def rk4[State](derivative: Callable[[State], State], y: State, h: float) -> State:
    """y(t + h) ≈ y + h (k₁ + 2k₂ + 2k₃ + k₄) / 6: one classical Runge–Kutta step of ẏ = f(y)."""

    def ahead(k: State, dt: float) -> State:
        moved: State = jax.tree.map(lambda y, dy: y + dt * dy, y, k)
        return moved

    k1 = derivative(y)
    k2 = derivative(ahead(k1, h / 2))
    k3 = derivative(ahead(k2, h / 2))
    k4 = derivative(ahead(k3, h))
    return ahead(jax.tree.map(lambda a, b, c, d: a + 2 * b + 2 * c + d, k1, k2, k3, k4), h / 6)


def result(obs: Array, reward: Scalar, terminated: Bool[Array, ""]) -> Step:
    """The step that led to `obs`. It is never truncated: runners count time."""
    return Step(obs, reward, terminated, jnp.array(False))


class CartPoleState(NamedTuple):
    """Position [m] and velocity of the cart, angle of the pole from upright and its rate."""

    x: Scalar
    x_dot: Scalar
    theta: Scalar
    theta_dot: Scalar


class CartPole(eqx.Module):
    """Balance a pole on a cart by pushing left (0) or right (1); 1 a step until it falls or leaves the track.

    M ẍ + mℓ (θ̈ cos θ − θ̇² sin θ) = F and ℓ (4/3) θ̈ + ẍ cos θ = g sin θ, by explicit Euler. M is the mass of cart
    and pole, m the pole's, ℓ half its length. Observation [x, ẋ, θ, θ̇].
    Source: Barto, Sutton & Anderson (1983), without friction; derived in Florian (2007).
    """

    spec = EnvSpec("CartPole-v1", ArraySpec((4,)), Discrete(2), 500, 475.0)

    gravity = 9.8
    pole_mass = 0.1
    total_mass = 1.1
    half_length = 0.5
    push = 10.0
    dt = 0.02
    x_limit = 2.4
    theta_limit = math.radians(12)

    def reset(self, key: PRNGKeyArray) -> tuple[CartPoleState, Float[Array, "4"]]:
        """All four quantities uniform in ±0.05."""
        obs = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return CartPoleState(*obs), obs

    def step(self, key: PRNGKeyArray, state: CartPoleState, action: Action) -> tuple[CartPoleState, Step]:
        """Push for `dt`. The step that falls is rewarded too."""
        x, x_dot, theta, theta_dot = state
        sin, cos = jnp.sin(theta), jnp.cos(theta)
        force = jnp.where(action == 1, self.push, -self.push)
        ml = self.pole_mass * self.half_length

        pushed = (force + ml * theta_dot**2 * sin) / self.total_mass  # ẍ, were the pole not to react
        theta_acc = (self.gravity * sin - cos * pushed) / (
            self.half_length * (4 / 3 - self.pole_mass / self.total_mass * cos**2)
        )
        x_acc = pushed - ml / self.total_mass * theta_acc * cos

        state = CartPoleState(
            x + self.dt * x_dot,
            x_dot + self.dt * x_acc,
            theta + self.dt * theta_dot,
            theta_dot + self.dt * theta_acc,
        )
        fallen = (jnp.abs(state.x) > self.x_limit) | (jnp.abs(state.theta) > self.theta_limit)
        return state, result(jnp.stack(state), jnp.ones(()), fallen)


class AcrobotState(NamedTuple):
    """Angle of the first link from hanging, of the second relative to the first, and their rates."""

    theta1: Scalar
    theta2: Scalar
    dtheta1: Scalar
    dtheta2: Scalar


class Acrobot(eqx.Module):
    """Swing the tip of a two-link pendulum one link above its pivot, by torque −1, 0 or 1 at the elbow; −1 a step.

    d₁ θ̈₁ + d₂ θ̈₂ + φ₁ = 0 and d₂ θ̈₁ + d₃ θ̈₂ + (mℓr θ̇₁² sin θ₂ + φ₂) = τ, by one Runge–Kutta step. The links are
    alike: mass m, length ℓ, centre of mass at r, moment of inertia I.
    Observation [cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ̇₁, θ̇₂].
    Source: Sutton (1996); equations of Sutton & Barto (1998), section 11.3.
    """

    spec = EnvSpec("Acrobot-v1", ArraySpec((6,)), Discrete(3), 500, -100.0)

    gravity = 9.8
    mass = 1.0
    length = 1.0
    centre = 0.5
    inertia = 1.0
    dt = 0.2
    dtheta1_limit = 4 * math.pi
    dtheta2_limit = 9 * math.pi

    def reset(self, key: PRNGKeyArray) -> tuple[AcrobotState, Float[Array, "6"]]:
        """All four quantities uniform in ±0.1."""
        state = AcrobotState(*jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1))
        return state, self.observe(state)

    def step(self, key: PRNGKeyArray, state: AcrobotState, action: Action) -> tuple[AcrobotState, Step]:
        """Apply the torque for `dt`. The step that reaches the height is rewarded 0."""
        theta1, theta2, dtheta1, dtheta2 = rk4(
            lambda s: self.derivative(s, jnp.asarray(action) - 1), state, self.dt
        )
        state = AcrobotState(
            wrap(theta1),
            wrap(theta2),
            jnp.clip(dtheta1, -self.dtheta1_limit, self.dtheta1_limit),
            jnp.clip(dtheta2, -self.dtheta2_limit, self.dtheta2_limit),
        )
        reached = -jnp.cos(state.theta1) - jnp.cos(state.theta1 + state.theta2) > 1
        return state, result(self.observe(state), reached.astype(float) - 1, reached)

    def derivative(self, state: AcrobotState, torque: Array) -> AcrobotState:
        """ẏ of y = (θ₁, θ₂, θ̇₁, θ̇₂) under the torque τ: the equations above solved for θ̈."""
        theta1, theta2, dtheta1, dtheta2 = state
        m, g, r, mlr = self.mass, self.gravity, self.centre, self.mass * self.length * self.centre
        sin2, cos2 = jnp.sin(theta2), jnp.cos(theta2)
        d3 = m * r**2 + self.inertia
        d2 = d3 + mlr * cos2
        d1 = 2 * d3 + m * self.length**2 + 2 * mlr * cos2
        phi2 = m * r * g * jnp.sin(theta1 + theta2)
        phi1 = m * (r + self.length) * g * jnp.sin(theta1) + phi2 - mlr * (dtheta2 + 2 * dtheta1) * dtheta2 * sin2
        ddtheta2 = (torque + d2 / d1 * phi1 - mlr * dtheta1**2 * sin2 - phi2) / (d3 - d2**2 / d1)
        return AcrobotState(dtheta1, dtheta2, -(d2 * ddtheta2 + phi1) / d1, ddtheta2)

    def observe(self, state: AcrobotState) -> Float[Array, "6"]:
        """[cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ̇₁, θ̇₂]."""
        theta1, theta2, dtheta1, dtheta2 = state
        return jnp.stack([jnp.cos(theta1), jnp.sin(theta1), jnp.cos(theta2), jnp.sin(theta2), dtheta1, dtheta2])


class CarState(NamedTuple):
    """Position along the valley, whose floor is at −π/6, and velocity (distance a step)."""

    position: Scalar
    velocity: Scalar


class Valley(eqx.Module):
    """What the two mountain cars share: an engine too weak for the slope, sin 3x, and a wall at the left end."""

    goal: eqx.AbstractClassVar[float]

    gravity = 0.0025
    speed_limit = 0.07
    left = -1.2
    right = 0.6

    def reset(self, key: PRNGKeyArray) -> tuple[CarState, Float[Array, "2"]]:
        """At rest, uniform in [−0.6, −0.4]."""
        state = CarState(jax.random.uniform(key, minval=-0.6, maxval=-0.4), jnp.zeros(()))
        return state, jnp.stack(state)

    def drive(self, state: CarState, thrust: Scalar) -> tuple[CarState, Bool[Array, ""]]:
        """v′ = v + F − g cos 3x and x′ = x + v′, both clipped; the wall stops the car. Also whether it arrived."""
        velocity = state.velocity + thrust - self.gravity * jnp.cos(3 * state.position)
        velocity = jnp.clip(velocity, -self.speed_limit, self.speed_limit)
        position = jnp.clip(state.position + velocity, self.left, self.right)
        velocity = jnp.where((position == self.left) & (velocity < 0), 0.0, velocity)
        return CarState(position, velocity), (position >= self.goal) & (velocity >= 0)


class MountainCar(Valley):
    """Drive an underpowered car out of a valley by thrust left (0), none (1) or right (2); −1 a step.

    v′ = v + 0.001 (a − 1) − 0.0025 cos 3x and x′ = x + v′. Observation [x, v]. Source: Moore (1990).
    """

    spec = EnvSpec("MountainCar-v0", ArraySpec((2,)), Discrete(3), 200, -110.0)

    power = 0.001
    goal = 0.5

    def step(self, key: PRNGKeyArray, state: CarState, action: Action) -> tuple[CarState, Step]:
        """Drive for one step; the one that reaches the goal is rewarded −1 too."""
        state, arrived = self.drive(state, self.power * (jnp.asarray(action) - 1))
        return state, result(jnp.stack(state), -jnp.ones(()), arrived)


class MountainCarContinuous(Valley):
    """Drive the car out with thrust a in [−1, 1]; reward 100 at the goal, less 0.1 a² a step.

    v′ = v + 0.0015 a − 0.0025 cos 3x and x′ = x + v′. Observation [x, v]. Source: Moore (1990); this version is
    A. de Broissia's. An action outside [−1, 1] is clipped before it is paid for.
    """

    spec = EnvSpec("MountainCarContinuous-v0", ArraySpec((2,)), Continuous(1, (True,)), 999, 90.0)

    power = 0.0015
    goal = 0.45

    def step(self, key: PRNGKeyArray, state: CarState, action: Action) -> tuple[CarState, Step]:
        """Drive for one step."""
        thrust = jnp.clip(action[0], -1, 1)
        state, arrived = self.drive(state, self.power * thrust)
        return state, result(jnp.stack(state), 100 * arrived - 0.1 * thrust**2, arrived)


class PendulumState(NamedTuple):
    """Angle from upright and its rate."""

    theta: Scalar
    theta_dot: Scalar


class Pendulum(eqx.Module):
    """Swing a pendulum up and hold it, by torque u = 2a; reward −(θ² + 0.1 θ̇² + 0.001 u²), θ in [−π, π].

    θ̈ = (3g / 2ℓ) sin θ + 3u / mℓ² for a rod of length ℓ and mass m, by semi-implicit Euler.
    Observation [cos θ, sin θ, θ̇]. It never terminates. Source: Gymnasium, after OpenAI Gym (2016).
    """

    spec = EnvSpec("Pendulum-v1", ArraySpec((3,)), Continuous(1, (True,)), 200)

    gravity = 10.0
    mass = 1.0
    length = 1.0
    dt = 0.05
    torque_limit = 2.0
    action_bounds = (-2.0, 2.0)  # in Gymnasium's terms, which a saved policy speaks
    theta_dot_limit = 8.0

    def reset(self, key: PRNGKeyArray) -> tuple[PendulumState, Float[Array, "3"]]:
        """θ uniform in ±π, θ̇ in ±1."""
        theta, theta_dot = jax.random.uniform(key, (2,), minval=-1, maxval=1)
        state = PendulumState(math.pi * theta, theta_dot)
        return state, self.observe(state)

    def step(self, key: PRNGKeyArray, state: PendulumState, action: Action) -> tuple[PendulumState, Step]:
        """Apply the torque for `dt`. The reward is that of the state left and the torque."""
        theta, theta_dot = wrap(state.theta), state.theta_dot
        torque = self.torque_limit * jnp.clip(action[0], -1, 1)
        cost = theta**2 + 0.1 * theta_dot**2 + 0.001 * torque**2

        pull = 1.5 * self.gravity / self.length * jnp.sin(theta)
        theta_dot = theta_dot + self.dt * (pull + 3 / (self.mass * self.length**2) * torque)
        theta_dot = jnp.clip(theta_dot, -self.theta_dot_limit, self.theta_dot_limit)
        state = PendulumState(theta + self.dt * theta_dot, theta_dot)
        return state, result(self.observe(state), -cost, jnp.array(False))

    def observe(self, state: PendulumState) -> Float[Array, "3"]:
        """[cos θ, sin θ, θ̇]."""
        return jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta), state.theta_dot])


CLASSICS: dict[str, type[Environment[Any]]] = {
    env.spec.id: env for env in (CartPole, Acrobot, MountainCar, MountainCarContinuous, Pendulum)
}
