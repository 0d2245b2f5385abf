"""The names of known mistakes: one vocabulary for the verdict on a kernel and that on a merge.

A name says in a few words what was done; the formula beside it says what that makes of the right
one. `lora_ref.verify.catalogue` names by these what it finds in a merged tensor.
"""

# the scale
NOT_APPLIED = "not applied"
APPLIED_TWICE = "applied twice"
APPLIED_THREE_TIMES = "applied three times"
SUBTRACTED = "subtracted"
RANK_FOR_ROOT = "α/r where the adapter says α/√r"
ROOT_FOR_RANK = "α/√r where the adapter says α/r"
ALPHA_UNDIVIDED = "α not divided by the rank"
SCALE_LEFT_OUT = "scale left out"
SCALE_TWICE = "scale applied twice"
SCALE_INVERTED = "scale inverted"
HALVED = "halved"
ROOT_OF_SCALE = "square root of the scale"
RANK_TWICE = "divided by r once more"

# the layout
TRANSPOSED = "transposed"
BASE_TRANSPOSED = "base transposed"
A_TRANSPOSED = "A read transposed"
B_TRANSPOSED = "B read transposed"
BOTH_TRANSPOSED = "A and B read transposed"
SWAPPED = "A and B swapped"
RANK_REVERSED = "rank order reversed in A"
RANK_SHIFTED = "rank order shifted in A"
ROWS_PERMUTED = "rows permuted: "
HALVES = "halves swapped (gate and up)"
HALVES_SWAPPED = ROWS_PERMUTED + HALVES

# the extent
RANK_TRUNCATED = "rank truncated"
LAST_INPUT = "last input column left out"
LAST_INPUT_OF_BASE = "last input column left out of the base"
LAST_INPUT_OF_A = "last input column left out of A"
LAST_OUTPUT = "not applied to the last output"
LAST_OUTPUT_ZERO = "last output left at zero"
LAST_TOKEN = "not applied to the last token"
LAST_TOKEN_ZERO = "last token left at zero"
LAST_TOKEN_STALE = "last token a copy of the one before"

# which base, which adapter
BASE_LEFT_OUT = "base left out"
ANOTHER_UPDATE = "another module's update"
ANOTHER_UPDATE_TOO = "another module's update as well"
ANOTHER_ON_LAST_TOKEN = "another adapter on the last token"

# the bias
BIAS_LEFT_OUT = "bias left out"
BIAS_TWICE = "bias applied twice"
BIAS_SCALED = "bias multiplied by the scale"

# gradients
DB_UNSCALED = "dB without the scale"
DA_UNSCALED = "dA without the scale"
DA_DB_UNSCALED = "dA and dB without the scale"
DA_DB_SCALED_TWICE = "dA and dB scaled twice"
DX_WITHOUT_UPDATE = "dx without the update"
DX_UNSCALED = "dx with the update unscaled"
GRADIENTS_LAST_TOKEN = "last token left out of the parameters' gradients"
BIAS_LAST_TOKEN = "last token left out of db"
GRADIENTS_AVERAGED = "parameters' gradients averaged over the tokens"

# DoRA
NORM_OF_BASE = "norm of W in place of W + s·BA"
NORM_UNSCALED = "norm of W + BA, without the scale"
COLUMN_NORMS = "norm of the input columns, magnitude of the outputs"
COLUMN_NORMS_ON_ROWS = "norm along dim 0 in place of the norm of the outputs"
ALONG_INPUTS = "norm and magnitude along the inputs"
MAGNITUDE_DROPPED = "magnitude dropped"
MAGNITUDE_ON_UPDATE = "magnitude on the update alone"
UNNORMALISED = "norm left out"
NORM_HELD = "norm held constant in the gradients"
NORM_NOT_HELD = "gradients through the norm"

# attention
MASK_IGNORED = "mask ignored"
ONE_KEY_AHEAD = "each query sees one key ahead"
SELF_EXCLUDED = "no query sees its own key"
OTHER_CORNER = "causal mask aligned at the other corner"
LAST_KEY = "last key left out"
FIRST_KEY = "first key left out"
HEADS_MODULO = "query head h on key head h mod K"
LAST_HEAD = "last query head on another key head"
FIRST_KEY_HEAD = "all query heads on the first key head"
GROUP_NOT_SUMMED = "dk and dv of one query head of each group"
SCORES_UNSCALED = "scores not scaled"
SCORES_BY_WIDTH = "scores scaled by 1/d"
SCORES_TWICE = "scores scaled twice"
DQ_UNSCALED = "dq without the scale"
DK_UNSCALED = "dk without the scale"

# rotary embedding
NOT_ROTATED = "not rotated"
PAIRING = "the other pairing of rotated columns"
BACKWARDS = "rotated backwards"
KEYS_NOT_ROTATED = "keys not rotated"
ONE_POSITION_AHEAD = "queries one position ahead of the keys"
POSITIONS_ROUNDED = "positions rounded to bfloat16"
