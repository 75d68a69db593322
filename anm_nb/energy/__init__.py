"""IRED energy diffusion, and adversarial negative mining for it."""
