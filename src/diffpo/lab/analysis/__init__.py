"""Why a policy learns as it does: surrogates, weights, gradients, entropies and thresholds of a checkpoint."""
