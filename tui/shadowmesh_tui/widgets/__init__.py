"""The parts that the screens are made of. Each shows what it is given and tells by messages what the person did."""
