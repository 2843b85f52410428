def double(array):
    return array * 2
