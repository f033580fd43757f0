"""Words of which field names of APIs consist, and words that are data wherever they are a key.

Pure data, for `field_names`. `FIELD_WORDS` is public vocabulary: a key that consists of it says nothing about anyone.
Given names that are ordinary words as well (`mark`, `grace`, `art`) are in neither list.
"""

from typing import Final

FIELD_WORDS: Final = frozenset(
    """
    abbreviation abort about absolute abstract accept accepted access account accuracy action activate activated
    active activity actual actor adapter add added addition additional address adjusted admin adult advance affected
    after age agent aggregate airline airport alert alias align all allocated allow allowed alpha alternate
    alternative altitude amount analysis anchor angle annotation annual answer any api app applied apply approval
    approved approximate archive archived area argument array arrival arrive article artifact artist aspect asset
    assigned assignee assignment associated at attach attached attachment attempt attendee attribute audience audio
    audit author authorized auto automatic availability available avatar average avg award away axis back background
    backup balance band bandwidth bank bar base baseline basic batch battery bearing bed before begin behavior bid
    bill billing bin binary bio birth bit blob block blocked blog board body book booked booking bool boolean border
    bot bottom bound boundary box brake branch brand breadcrumb break brief brightness browser bucket budget buffer
    bug build building bundle business button buy buyer byte bytes cabin cache cached calendar call called camera
    campaign can cancel cancellable cancelled canceled candidate canonical capability capacity caption capture car
    card care carrier cart case cash catalog category cause cell center certificate change changed changes channel
    chapter character charge chart chat check checked checkin checkout checksum child children choice chunk citation
    city claim class classification clause clean clear click client climate clone close closed cloud cluster code
    coefficient collaborator collateral collection color colour column columns command comment comments commit
    commits committed committer common company comparison compatible complete completed completion component
    compressed computed concept condition conditions conference confidence config configuration configured confirm
    confirmation confirmed conflict connected connection console constraint contact contain container content
    contents context contract contribution contributor control conversation conversion convert converted cookie
    coordinate coordinates copy copyright core correct correlation cost count counter country county coupon course
    cover coverage cpu create created creation creator credit criteria critical cross currency current cursor curve
    custom customer cycle daily dashboard data database dataset date datetime day days db dead deadline debit debug
    decimal decision declined deep default definition degree degrees delay delete deleted delivered delivery delta
    demand department departure depart depend dependency dependencies deployed deployment deposit depth deprecated
    derived description destination detail details detected detection device diagnostic dialog diff difference
    digest dimension dir direct direction director directory disabled discount disk display distance distribution
    district division dns doc docs document documentation domain done door doors dose down download downloads draft
    driver drop dry due dump duplicate duration duty dynamic each earliest early edge edges edit edited editor
    education effect effective elapsed element elevation eligible email embed embedding employee empty enable
    enabled encoded encoding encrypted end ended endpoint energy engagement engine entities entity entries entry
    enum env environment episode equal equity error errors estimate estimated eta event events exact example excerpt
    exchange exclude excluded executed execution executor exists exit expected expense experience expired expires
    expiration expiry explanation export expression extended extension external extra extract face factor facts
    failed failure fallback false family fan fare fast favorite favourite feature features fee feed feedback feels
    fetch fetched field fields figure file filename files filesystem fill filled filter filters final finding
    fingerprint finish finished first fit fixed flag flags flight flights float floor flow folder folders follow
    followers following font footer force forecast forecasts fork forks form format formatted formula found fraction
    fragment frame framework free freight frequency fresh from front fuel full function fund gain game gap gas gate
    gender general generated generation genre geo geometry given global goal grade gram grand graph greeting grid
    gross group groups guest guests guid guide gust handle handled hash has head header headers heading headlight
    health heartbeat height help hidden high highest highlight hint history hit hits hold holder holiday home host
    hostname hotel hour hourly hours href html http https humidity icon id ids idea identifier identity idle ignored
    image images impact import important in inbound inbox include included income increment index indices industry
    info information inherited initial inner input insert inserted inspection instance instant institution
    instruction instructions insurance integer integration interest interface internal interval intro invalid
    inventory investment invitation invite invoice ip is iso issue issued issuer issues item items iteration
    itinerary job jobs join joined journal json justification key keys keyword keywords kilometer kilometers kind km
    known label labels lane lang language last lastly lat late latency latest latitude layer layout lead leaf leave
    left leg legs length lens letter level levels library license licence life light like likes limit line lineage
    lines link linked links list listed listing liter literal live lng load loaded loan local locale location
    locations lock locked log logged login logo logs lon long longitude loop loss low lowest machine mail main
    maintainer major make manager manifest manual manufacturer map margin market mask mass master match matched
    matches matching material math matrix max maximum mean measure measurement media median medium meeting member
    members membership memo memory menu merge merged merchant message messages meta metadata meter method metric
    metrics middle migration milestone min mime minimum minor minute minutes misc missing mobile mode model models
    modified module money monitor month monthly more most mount mounted move moved movie ms multi multiple mutable
    name named names namespace narrative native nav navigation nearest need needed negative neighbor nested net
    network new news next nickname night node nodes noise none normal normalized not note notes notice notification
    now null number numbers numeric object objects observation observations occupied occurred occurrence odometer
    offer office offset ok old on one online only open opened opening operating operation operator opinion
    opportunity option optional options order ordered orders org organisation organization origin original os other
    others out outbound outcome outer outline output outputs outstanding overall overdue overlap override overview
    owned owner package packages page pages pagination paid pair pairs panel paragraph parameter parameters params
    parent parents parking parse parsed part partial participant participants parts party pass passed passenger
    passengers passing patch path paths pattern pause paused pay payload payment payments peak pedal pending people
    per percent percentage percentile performance period permission permissions person phase phone photo phrase
    physical pick picture piece pin pipeline pixel place placed places plain plan planned plans plate platform
    player plot plugin point points policy poll pool popularity port position positive possible post postal postcode
    posted posts potential power precipitation precision prediction preferred prefix premium prepared presence
    present pressure preview previous price prices pricing primary print prior priority private privacy probability
    problem process processed processing processor product products profile profit program progress project projects
    prompt proof properties property proposal protected protocol provider province proxy pub public published
    publisher pull purchase purpose push qty quality quantity quarter query question questions queue quick quota
    quote radius rain random range ranges rank ranking rate rated rates rating ratings ratio raw reach reaction read
    readable reading ready real reason reasons received recent recipient recipients recommendation recommended
    record recorded records recovery redirect reduced ref reference references referral refresh refund region
    registered registration registry regular rejected related relation relations relationship relative release
    released releases relevance reliability reminder remote removed rendered renewal rent reopened repeat replace
    replaced reply replies repo report reports repositories repository request requested requester requests required
    requirement requires reservation reservations reserved reset resolution resolved resource resources response
    responses rest restaurant restricted result results resume retail retention retries retry return returned
    returns revenue reverse review reviewer reviewers reviews revision reward right risk role roles rollback room
    rooms root rotation round route routes routing row rows rule rules run running runs runtime safe salary sale
    sales same sample samples sampling satisfied saved scale scan schedule scheduled schema school scope score
    scores screen screenshot script scroll search season seat seats second secondary seconds section sections sector
    security segment segments select selected selection selector self seller semantic send sender sensor sent
    sentence sentiment sequence serial series server servers service services session sessions set setting settings
    setup severity sha shape share shared shares sheet shift ship shipment shipped shipping shop short show side
    sign signal signature signed similarity simple single site size sizes skill skip skipped sku slot slots slug
    small smart snapshot snippet snow social software sold sort sorted sound source sources space spam span spec
    special speed spent split spot stack staff stage staged staging standard star starred stars start started
    starting state statement states static station stats statistic statistics status statuses step steps stock stop
    stopped stops storage store stored story stream street strength strict string strings structure structured style
    subject submitted subscribers subscription subtitle subtotal subtype success successful suffix suggested
    suggestion suggestions suite sum summary sunrise sunset supplier supply support supported surface surname switch
    symbol symbols sync synced synopsis syntax system tab table tables tag tags tail take taken tank target targets
    task tasks tax taxes team teams technical temp temperature template templates temporary term terminal terms
    territory test tested tests text texts theme thread threads threshold through throughput thumbnail ticket
    tickets tier tile time timeline timeout times timestamp timezone timing tip tips tire tires title titles to
    today token tokens tolerance tool tools top topic topics total totals touch tour trace track tracked tracking
    tracks traffic trailing train training transaction transactions transcript transfer transform transit translated
    translation transport travel treatment tree trend trial trigger trip trips true truncated trust try ttl turn
    tutorial tweet tweets type types uid unavailable unchanged under unique unit units universal unknown unlisted
    unlocked unread until untracked up update updated updates upload uploaded upper uptime uri url urls usage use
    used user username users using utc uuid valid validated validation validity value values variable variables
    variance variant variants vat vector vehicle vendor venue verb verified version versions vertical via video
    videos view viewed viewer views virtual visibility visible vision visit visits visual voice volume vote votes
    voucher wait waiting wall wallet warehouse warning warnings watch watched watchers water watchlist weather web
    webhook website week weekly weight wheel width wiki wind window windows word words work worker workflow working
    workspace world write written year years zip zipcode zone zones zoom addr amt attr auth ack cmd col cols cfg
    conf ctx cur desc dest dst dev dob elem err exp ext fmt fn freq func gid hr hrs idx img impl init int iter kb kg
    len lib loc max mb mem mimetype min mins msg mtime ctime atime nr num obj op ops param pct perm pid pkg pos pred
    prev prop props pwd qa rel rev req res resp seq sec secs spec src srv std stderr stdin stdout str subj svc sys
    tmp txt tz ua usr val var vars ver vol x y z w h r n
    """.split()
)  # fmt: skip
"""Singular and plural where both are usual; `field_names` also tries without a final `s`."""

NUMBERED_WORDS: Final = frozenset(
    "address1 address2 address3 base64 crc32 http2 ipv4 ipv6 iso2 iso3 iso8601 l1 l2 level1 level2 line1 line2 line3 "
    "md5 oauth2 p50 p75 p90 p95 p99 sha1 sha256 sha512 street1 street2 utf8 uuid4 x0 x1 x2 y0 y1 y2 z1 z2 "
    "x3 y3".split()
)
"""Field names that end in digits; of other words with digits nothing is known."""

DATA_WORDS: Final = frozenset(
    """
    monday tuesday wednesday thursday friday saturday sunday mon tue wed thu fri sat january february march april
    june july august september october november december jan feb mar apr jun jul aug sep sept oct nov dec aaron
    abdul abigail ada adam adriana adrian ahmed aisha alan albert alejandro alex alexa alexander alexandra alexis
    alfred ali alice alicia alison allison amanda amber amelia amir amy ana anastasia andre andrea andreas andrew
    angela anita anja ann anna anne annette anthony antonio arjun arthur ashley astrid ava barbara beatrice ben
    benjamin bernard beth betty bjorn bob bobby boris brandon brenda brian bruce bruno caleb cameron camila carl
    carla carlos carmen carol caroline catherine cathy charles charlie charlotte chen chloe chris christian
    christina christine christopher claire claudia clara connor craig cynthia daniel daniela danielle dave david
    deborah denis dennis diana diego dmitri dmitry donald donna dorothy douglas dylan eddie edith eduardo edward
    elena eli elias elijah elisabeth elizabeth ella ellen emily emma enrique eric erica erik erika ethan eugene eva
    evan eve evelyn fabian fatima felix fernando fiona frances francesca francisco francois frank fred frederick
    gabriel gabriela gary george gerald gina giulia gloria gordon greg gregory greta gustav hana hannah hans harold
    harry hassan heather heidi helen helena henrik henry hiroshi howard hugo ian ibrahim igor ines ingrid irene iris
    isaac isabel isabella isla ivan jack jackson jacob jacqueline james jamie jan jane janet janice jason javier
    jean jeff jeffrey jennifer jenny jeremy jerry jesse jessica jesus jim jimmy jing joan joanna joe joel johan john
    johnny jon jonas jonathan jordan jorge jose joseph joshua juan judith judy julia julian julie justin kai karen
    karl karin kate katherine kathleen katie keith kelly ken kenji kenneth kevin khalid kim klaus kumar kyle lara
    larry lars laura lauren layla lea leo leon leonard liam lily linda lisa liz logan lorenzo louis louise lucas
    lucia lucy luigi luis luke luna magnus maja malik mallory manuel marc marcel marco marcus margaret maria marie
    marina mario marta martha martin martina mary mason mateo matt matteo matthew matthias max maya megan mei
    melanie melissa mia michael michelle miguel mike mila milan mohamed mohammed monica morgan muhammad nadia nancy
    naomi natalie natasha nathan neil nicholas nick nicolas nicole nikolai nina noah nora oleg olga oliver olivia
    omar oscar otto owen pablo pamela patricia patrick paul paula pedro peggy penelope pete peter philip philippe
    pierre priya rachel rafael rahul raj ralph ramon raymond rebecca renata ricardo richard rick rita robert roberto
    robin roger roland ronald rosa rui russell ruth ryan sally sam samantha samir samuel sandra santiago sara sarah
    scott sean sebastian sergei sergio sharon shirley simon simone sofia sonia sophia sophie stefan stella stephanie
    stephen steve steven susan susanne svetlana sven sybil sylvia takeshi tamara tanya ted teresa theo theodore
    theresa thomas tim timothy tina tobias todd tom tomas tommy tony trent tyler ursula valentina valerie vanessa
    vera veronica victor victoria viktor vincent virginia vivian vladimir walter wei wendy wilhelm william wolfgang
    xavier yan yasmin yosef yuki yusuf yvonne zachary zara zoe
    """.split()
) - FIELD_WORDS  # fmt: skip
"""Weekdays, months and common given names. An object with one of them as a key is a map keyed by data."""
