def tell_cost(work, plan, stages):
    pass
