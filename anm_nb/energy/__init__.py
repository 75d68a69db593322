"""IRED energy diffusion and adversarial negative mining on top of it."""
