"""How the sensors' BEVs become one."""
