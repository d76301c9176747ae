

plant-7.gw2Tv˜ºÜþ