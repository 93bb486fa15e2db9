"""Diffusion models: noise schedules, the forward and the reverse process, samplers, and the UNet.

The names are those of the field. i counts steps, t is what the network sees.

| ours | symbol | elsewhere |
|---|---|---|
| `x` | x_t | `sample` (diffusers), `img` (lucidrains): the noisy image at step t |
| `x_start` | x_0 | the image without noise |
| `pred_x0` | x̂_0 | `pred_xstart` (guided-diffusion), `denoised` (k-diffusion): the estimate of x_0 |
| `eps`, `noise` | ε | standard normal noise; eps is the network's estimate of it |
| `betas` | β_t | the variance that a step adds |
| `alphas_cumprod` | ᾱ_t | the product of 1 - β: how much of x_0's variance is left |
| `alphas_cumprod_prev` | ᾱ_{t-1} | the same one step before |
| `sqrt_recip_alphas_cumprod` | sqrt(1 / ᾱ_t) | the factor of x_t in x̂_0 |
| `sqrt_recipm1_alphas_cumprod` | sqrt(1 / ᾱ_t - 1) | the factor of ε in x̂_0, which is subtracted |
| `posterior_mean_coef1`, `coef2` | | the factors of x_0 and x_t in the mean of q(x_{t-1} given x_t, x_0) |
| `posterior_variance` | β̃_t | the variance of q(x_{t-1} given x_t, x_0) |
| `timesteps` | τ_i | `timestep_map` (guided-diffusion): the original step of index i in a respaced schedule |
| `alpha_t`, `sigma_t` | α_t, σ_t | sqrt(ᾱ_t), sqrt(1 - ᾱ_t): x_t = α_t x_0 + σ_t ε (DPM-Solver) |
| `sigmas` | σ_t / α_t | σ of Karras et al. and k-diffusion, ρ of DEIS: the noise over the image |
| `lambda_t` | λ_t | log(α_t / σ_t), half of the log signal-to-noise ratio (DPM-Solver) |
| `q_sample` | q(x_t given x_0) | `add_noise` (diffusers): the forward process |

DDPM: Ho et al., 2020. DDIM: Song et al., 2021. Improved DDPM: Nichol and Dhariwal, 2021.
"""
