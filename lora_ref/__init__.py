"""lora_ref: the executable definition of low-rank adaptation."""
