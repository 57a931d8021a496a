"""What other trainers call our knobs, for those who move: TRL and transformers, verl, d1 and its descendants.

docs/coming_from.md has the table with what differs beside the name.
"""

from __future__ import annotations

ELSEWHERE = {
    # lengths and batches
    "max_completion_length": "gen_length",
    "max_new_tokens": "gen_length",
    "max_tokens": "gen_length",
    "response_length": "gen_length",
    "max_response_length": "gen_length",
    "max_prompt_length": "overlong",
    "max_seq_length": "max_length | gen_length",
    "per_device_train_batch_size": "micro_batch_tokens",
    "gradient_accumulation_steps": "micro_batch_tokens",
    "micro_batch_size": "micro_batch_tokens",
    "generation_batch_size": "num_slots",
    "train_batch_size": "prompts_per_step",
    "rollout_batch_size": "prompts_per_step",
    "group_size": "num_generations",
    "ppo_epochs": "num_iterations",
    "num_updates": "num_iterations",
    # how long, how often, where
    "max_steps": "steps",
    "num_train_epochs": "steps",
    "total_epochs": "steps",
    "save_steps": "save_every",
    "save_total_limit": "keep_checkpoints",
    "eval_steps": "eval_every",
    "load_best_model_at_end": "eval_every",
    "output_dir": "output",
    "report_to": "log_with",
    "run_name": "tracker.name",
    "wandb_project": "project",
    # weights
    "model_name_or_path": "model",
    "model_path": "model",
    "torch_dtype": "dtype",
    "bf16": "dtype",
    "load_in_4bit": "four_bit",
    "torch_compile": "compile",
    "lora_r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_target_modules": "targets",
    "target_modules": "targets",
    # data and rewards
    "dataset_name": "data",
    "dataset": "data",
    "train_dataset": "data",
    "eval_dataset": "test_data",
    "reward_funcs": "reward",
    "reward_functions": "reward",
    # decoding
    "diffusion_steps": "sampler = steps:128",
    "denoising_steps": "sampler = steps:128",
    "remasking": "sampler = top_k:1",
    "confidence_threshold": "sampler = confidence:0.9",
    "generation_temperature": "rollout.temperature",
    # the objective
    "epsilon": "loss = clipped:0.2",
    "epsilon_low": "loss = clipped:0.2",
    "epsilon_high": "loss = clipped:0.2,epsilon_high=0.28",
    "cliprange": "loss = clipped:0.2",
    "clip_ratio": "loss = clipped:0.2",
    "importance_sampling_level": "loss = clipped:0.2,ratio_level=sequence",
    "psi": "loss = gdsd:10",
    "num_latents": "surrogate = mean_field:2",
    "p_mask_prompt": "surrogate = mean_field:1,prompt_mask_prob=0.15",
    "num_mc": "surrogate = elbo:2",
    "kl_coef": "beta",
    "kl_loss_coef": "beta",
    # how weights move
    "lr": "optim.learning_rate",
    "lr_scheduler_type": "lr_schedule",
    "warmup_ratio": "warmup_steps",
    "adam_beta1": "adam_betas",
    "adam_beta2": "adam_betas",
    "clip_grad": "max_grad_norm",
    # processes
    "staleness": "lag",
    "max_staleness": "lag",
    "num_workers": "workers",
}
"""Name there, to the end of the knob's dotted name here, or of several: the first that a command has. Behind an equals
sign what to write into one that holds a choice with knobs of its own."""
