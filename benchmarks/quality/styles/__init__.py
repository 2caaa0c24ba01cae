"""Style LoRAs from few pictures, judged on subjects whose true picture in that style nobody trained on."""
