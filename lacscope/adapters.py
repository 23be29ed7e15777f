"""The old name of ``lacscope.models.adapters``, until 1.0."""

from lacscope.guards._old_paths import old_modules
from lacscope.models.adapters import *  # noqa: F403

old_modules(
    __name__,
    {
        "lacscope.models.adapters": """
            bare_twin base bridge decode_state evaluation=eval_mode execution gguf_tensors grad_mode
            hooked_transformer offloading ours=uncopied passes rounding self_check stream weights
        """
    },
)
