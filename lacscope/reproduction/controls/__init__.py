"""Control masks: what a rule is compared with, matched to what its effect can spend.

``readout`` depends on a token's exit alone (the layer after its last active one, 0 where all are voids), so its
controls move exits: :func:`permuted_exits`, or fixed layers from one exit on. A mask whose last layer is active is
the full model under ``readout``, and no control. ``bypass`` spends each void, so its controls move voids:
:func:`random_layers`, :func:`random_tokens`, and the fixed layers of :func:`lowest_usage` and :func:`last_layers`.
:func:`norm_null` gives every token the mask of one typical token.

``drawn``: random masks, matched token by token or layer by layer. ``fixed``: one set of layers for every token.
"""

from lacscope.reproduction.controls._drawn import permuted_exits as permuted_exits
from lacscope.reproduction.controls._drawn import random_layers as random_layers
from lacscope.reproduction.controls._drawn import random_tokens as random_tokens
from lacscope.reproduction.controls._fixed import last_layers as last_layers
from lacscope.reproduction.controls._fixed import lowest_usage as lowest_usage
from lacscope.reproduction.controls._fixed import median_norm_curve as median_norm_curve
from lacscope.reproduction.controls._fixed import norm_null as norm_null
