# What this project imports from the top of transformers, for pyright alone. Its own `__init__.py` takes in every model
# there is, which was half of pyright's time.
from transformers.cache_utils import DynamicCache as DynamicCache
from transformers.modeling_utils import AttentionInterface as AttentionInterface
from transformers.models.auto.configuration_auto import AutoConfig as AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM as AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer as AutoTokenizer
from transformers.utils.quantization_config import BitsAndBytesConfig as BitsAndBytesConfig
from transformers.utils.quantization_config import TorchAoConfig as TorchAoConfig

__version__: str
