# %% base default: a right answer, which the answers below change unless they name another base
def cost_of_1000(prompt, answer, read_speed, write_speed, slots, price, cached=0):
    if min(read_speed, write_speed, slots) <= 0:
        raise ValueError("speeds and slots")
    if min(prompt, answer, price, cached) < 0 or cached > prompt:
        raise ValueError("tokens and price")
    read = (prompt - cached) / read_speed
    write = answer / write_speed / slots
    return 1000 * (read + write) / 3600 * price


def requests_until_paid(training_hours, training_price, long_prompt, tuned):
    saved = (long_prompt - tuned) / 1000
    if saved <= 0:
        return None
    return math.ceil(training_hours * training_price / saved)


# %% base other: another right answer, which some answers below change
def cost_of_1000(prompt, answer, read_speed, write_speed, slots, price, cached=0):
    if min(read_speed, write_speed, slots) <= 0:
        raise ValueError("speeds and slots")
    if min(prompt, answer, price, cached) < 0 or cached > prompt:
        raise ValueError("tokens and price")
    seconds = (prompt - cached) / read_speed + answer / write_speed / slots
    return 1000 * seconds / 3600 * price


def requests_until_paid(training_hours, training_price, long_prompt, tuned):
    saved = (long_prompt - tuned) / 1000
    if saved <= 0:
        return None
    return math.ceil(training_hours * training_price / saved)


# %% right per-second: computes the price of a second, and searches for the break-even
def cost_of_1000(prompt, answer, read_speed, write_speed, slots, price, cached=0):
    for number in (read_speed, write_speed, slots):
        if not number > 0:
            raise ValueError(f"{number} is not above 0")
    for number in (prompt - cached, cached, answer, price):
        if number < 0:
            raise ValueError(f"{number} is below 0")
    of_a_second = price / 60 / 60
    new_tokens = 1000 * (prompt - cached)
    return of_a_second * (new_tokens / read_speed + 1000 * answer / (write_speed * slots))


def requests_until_paid(training_hours, training_price, long_prompt, tuned):
    if long_prompt <= tuned:
        return None
    training, low, high = training_hours * training_price, 0, 10**12
    while low < high:
        middle = (low + high) // 2
        if training + middle * tuned / 1000 <= middle * long_prompt / 1000:
            high = middle
        else:
            low = middle + 1
    return low


# %% right hours: counts hours, and uses NumPy
def cost_of_1000(prompt, answer, read_speed, write_speed, slots, price, cached=0):
    if read_speed <= 0 or write_speed <= 0 or slots < 1:
        raise ValueError("above 0")
    if prompt < 0 or answer < 0 or price < 0 or not 0 <= cached <= prompt:
        raise ValueError("at least 0")
    hours = np.array([(prompt - cached) / read_speed, answer / write_speed / slots]) / 3.6
    return float(hours.sum() * price)


def requests_until_paid(training_hours, training_price, long_prompt, tuned):
    if not tuned < long_prompt:
        return None
    return int(np.ceil(1000 * training_hours * training_price / (long_prompt - tuned)))


# %% right requests-per-hour: divides the price of an hour by the requests of an hour
def cost_of_1000(prompt, answer, read_speed, write_speed, slots, price, cached=0):
    if any(number <= 0 for number in (read_speed, write_speed, slots)):
        raise ValueError("must be above 0")
    if prompt < cached or any(number < 0 for number in (prompt, answer, price, cached)):
        raise ValueError("must not be negative")
    seconds = (prompt - cached) / read_speed + answer / (write_speed * slots)
    if not seconds:
        return 0.0
    return price / (3600 / seconds) * 1000


def requests_until_paid(training_hours, training_price, long_prompt, tuned):
    quotient = 0.0
    if (difference := long_prompt - tuned) > 0:
        quotient = training_hours * training_price * 1000 / difference
        return -int(-quotient // 1)
    return None


# %% wrong no-slots: ignores the slots
old = "write = answer / write_speed / slots"
new = "write = answer / write_speed"


# %% wrong slots-for-reading: divides the time for reading by the slots, too
old = "read = (prompt - cached) / read_speed"
new = "read = (prompt - cached) / read_speed / slots"


# %% wrong slots-exchanged: divides the time for reading by the slots, not that for writing
old = "read = (prompt - cached) / read_speed"
new = "read = (prompt - cached) / read_speed / slots"
old = "write = answer / write_speed / slots"
new = "write = answer / write_speed"


# %% wrong slots-multiplied: multiplies by the slots
old = "write = answer / write_speed / slots"
new = "write = answer / write_speed * slots"


# %% wrong one-request: returns the price of one request
old = "return 1000 * (read + write) / 3600 * price"
new = "return (read + write) / 3600 * price"


# %% wrong seconds: takes the price for that of a second
old = "return 1000 * (read + write) / 3600 * price"
new = "return 1000 * (read + write) * price"


# %% wrong minutes: divides by 60 only once
old = "return 1000 * (read + write) / 3600 * price"
new = "return 1000 * (read + write) / 60 * price"


# %% wrong speeds-exchanged: exchanges the speeds
old = "read = (prompt - cached) / read_speed"
new = "read = (prompt - cached) / write_speed"
old = "write = answer / write_speed / slots"
new = "write = answer / read_speed / slots"


# %% wrong no-cache: reads stored tokens again
old = "read = (prompt - cached) / read_speed"
new = "read = prompt / read_speed"


# %% wrong cache-added: adds the stored tokens
old = "read = (prompt - cached) / read_speed"
new = "read = (prompt + cached) / read_speed"


# %% wrong no-answer: forgets the answer
old = "return 1000 * (read + write) / 3600 * price"
new = "return 1000 * read / 3600 * price"


# %% wrong overlap: lets reading and writing overlap
old = "return 1000 * (read + write) / 3600 * price"
new = "return 1000 * max(read, write) / 3600 * price"


# %% wrong rounded: rounds to cents
old = "return 1000 * (read + write) / 3600 * price"
new = "return round(1000 * (read + write) / 3600 * price, 2)"


# %% wrong zero-speed: raises a ZeroDivisionError for a speed of 0
old = "if min(read_speed, write_speed, slots) <= 0:"
new = "if min(read_speed, write_speed, slots) < 0:"


# %% wrong too-much-cached: accepts more stored tokens than the prompt has
old = "if min(prompt, answer, price, cached) < 0 or cached > prompt:"
new = "if min(prompt, answer, price, cached) < 0:"


# %% wrong all-cached: refuses a prompt that is stored completely
old = "if min(prompt, answer, price, cached) < 0 or cached > prompt:"
new = "if min(prompt, answer, price, cached) < 0 or cached >= prompt:"


# %% wrong negative-tokens: accepts negative tokens
old = "if min(prompt, answer, price, cached) < 0 or cached > prompt:"
new = "if min(price, cached) < 0 or cached > prompt:"


# %% wrong negative-price: accepts a negative price
old = "if min(prompt, answer, price, cached) < 0 or cached > prompt:"
new = "if min(prompt, answer, cached) < 0 or cached > prompt:"


# %% wrong floor: rounds the requests down
old = "return math.ceil(training_hours * training_price / saved)"
new = "return math.floor(training_hours * training_price / saved)"


# %% wrong nearest: rounds the requests to the nearest whole number
old = "return math.ceil(training_hours * training_price / saved)"
new = "return round(training_hours * training_price / saved)"


# %% wrong thousands: counts thousands of requests
old = "saved = (long_prompt - tuned) / 1000"
new = "saved = long_prompt - tuned"


# %% wrong no-training-price: takes the hours for the price
old = "return math.ceil(training_hours * training_price / saved)"
new = "return math.ceil(training_hours / saved)"


# %% wrong tuned-for-free: forgets the requests to the tuned model
old = "return math.ceil(training_hours * training_price / saved)"
new = "return math.ceil(1000 * training_hours * training_price / long_prompt)"


# %% wrong negative-requests: returns a negative number if training never pays off
old = "if saved <= 0:"
new = "if saved == 0:"


# %% wrong division-by-zero: divides by 0 if both models cost the same
old = "if saved <= 0:"
new = "if saved < 0:"


# %% wrong not-whole: doesn't round up
old = "return math.ceil(training_hours * training_price / saved)"
new = "return training_hours * training_price / saved"


# %% wrong floor-plus-one: adds 1 to the whole part instead of rounding up
base = "other"
old = "return math.ceil(training_hours * training_price / saved)"
new = "return int(training_hours * training_price / saved) + 1"


# %% wrong free-server: refuses a price of 0
base = "other"
old = "if min(prompt, answer, price, cached) < 0 or cached > prompt:"
new = "if min(prompt, answer, cached) < 0 or price <= 0 or cached > prompt:"


# %% wrong at-least-one: counts at least one request
base = "other"
old = "return math.ceil(training_hours * training_price / saved)"
new = "return max(1, math.ceil(training_hours * training_price / saved))"


# %% wrong half-to-even: rounds the quotient plus a half
base = "other"
old = "return math.ceil(training_hours * training_price / saved)"
new = "return round(training_hours * training_price / saved + 0.5)"


# %% wrong hundredths: rounds the quotient to hundredths before rounding up
base = "other"
old = "return math.ceil(training_hours * training_price / saved)"
new = "return math.ceil(round(training_hours * training_price / saved, 2))"


# %% wrong batches: rounds up the number of answers of each slot
old = "read = (prompt - cached) / read_speed"
new = "rounds = math.ceil(1000 / slots)"
old = "write = answer / write_speed / slots"
new = "seconds = (prompt - cached) / read_speed + rounds * answer / write_speed / 1000"
old = "return 1000 * (read + write) / 3600 * price"
new = "return 1000 * seconds / 3600 * price"


# %% wrong slow: refuses speeds below 1
base = "other"
old = "if min(read_speed, write_speed, slots) <= 0:"
new = "if min(read_speed, write_speed, slots) < 1:"


# %% wrong last-token: reads at least one token of each prompt
base = "other"
old = "seconds = (prompt - cached) / read_speed + answer / write_speed / slots"
new = "seconds = max(prompt - cached, min(prompt, 1)) / read_speed + answer / write_speed / slots"


# %% wrong three-decimals: rounds to three decimals before it rounds up
old = "return math.ceil(training_hours * training_price / saved)"
new = "return math.ceil(round(training_hours * training_price / saved, 3))"


# %% wrong rounded-saving: rounds what 1,000 requests save to four digits
old = "saved = (long_prompt - tuned) / 1000"
new = "saved = round(long_prompt - tuned, 4) / 1000"
