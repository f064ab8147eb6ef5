"""Click models over any embeddings. Read ``registry.py`` first, then ``fm.py``."""

from compactrec.models.registry import Model, ModelConfig, get_model, model_names, register_model

__all__ = ["Model", "ModelConfig", "get_model", "model_names", "register_model"]
